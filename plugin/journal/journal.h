// The journal of one job: an append-only file, each line `crc32c length json`, each record the whole state
// (poolshift-journal(5)). A torn last line is what a crash leaves and is ignored; any other damage is named.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace poolshift {

inline constexpr std::uint64_t kMaxJournalBytes = 64 * 1024 * 1024;

// `json` without line breaks, framed.
std::string frame_record(std::string_view json);

struct Replay {
  std::string last_record;         // JSON of the newest whole record
  std::uint64_t intact_bytes = 0;  // what follows is a torn last line
  std::size_t record_count = 0;
};

// `damaged` names line and kind of damage: "has no length", "has a wrong checksum", ...
Result<Replay> replay_journal(std::string_view content);

}  // namespace poolshift
