// An empty qcow2 file, as bytes. Written here and not by qemu-img, which opens the file by its name: between its making
// and that a member of the folder's group may put a link in its place.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace poolshift {

struct EmptyQcow2 {
  std::string begin;             // what the file begins with; the rest of it is zeros
  std::uint64_t file_bytes = 0;  // its length
};

// Of this virtual size, without a backing file. `invalid` when QEMU would not open one of that size.
Result<EmptyQcow2> empty_qcow2(std::uint64_t size_bytes);

}  // namespace poolshift
