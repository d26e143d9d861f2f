// What is better for the guest where both are possible: the engine, and how a handover's target gets its data. Decided
// by sizes alone, so that it can be told beforehand; measured by bench/ (docs/adr/0008-which-engine.md).
#pragma once

#include <cstdint>
#include <string>

namespace poolshift {

// Why engine mirror; empty: a handover.
std::string why_mirror(std::uint64_t used_bytes, std::uint64_t size_bytes);

// Why a handover of images with object maps is flattened although the OSDs could copy; empty: they do.
std::string why_flatten(std::uint64_t used_bytes, std::uint64_t size_bytes);

}  // namespace poolshift
