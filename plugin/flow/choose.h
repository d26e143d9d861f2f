// What is better for the guest where both are possible. Decided by sizes alone, so that it can be told beforehand;
// measured by bench/ (docs/adr/0008-which-engine.md).
#pragma once

#include <cstdint>
#include <string>

namespace poolshift {

// Why engine mirror; empty: a handover.
std::string why_mirror(std::uint64_t used_bytes, std::uint64_t size_bytes);

// Whether, once the OSDs have copied a clone's objects, its object map is rebuilt: librbd asks for every object of the
// image. Else the flatten tells it of them, and reads each once more for that.
bool rebuild_is_shorter(std::uint64_t used_bytes, std::uint64_t size_bytes);

}  // namespace poolshift
