// Quantities as people write and read them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "outcome.h"

namespace poolshift::cli {

// BYTES_PER_S[K|M|G], powers of 1024: "50M", "1.5G", "0" (no limit). A fraction needs a unit.
Outcome<std::uint64_t> parse_bandwidth(std::string_view text);

std::string format_bytes(double bytes);       // "1.5 GiB"
std::string format_rate(double bytes_per_s);  // "52.4 MB/s", powers of 1000
std::string format_seconds(double seconds);   // "0.041 s", "5.2 s", "3 min 20 s"
std::string format_clock(double seconds);     // "0:14", "1:02:03"
std::string format_age(double seconds);       // "14s", "3m", "5h", "12d"

}  // namespace poolshift::cli
