// The bandwidth limit of a running swap, for both engines. What is wanted now is asked for again at each use: somebody
// may change it at any time (poolshift set).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "base/result.h"

namespace poolshift {

class Swap;

class Rate {
 public:
  explicit Rate(Swap& swap) : swap_(swap) {}

  // Bytes per second; 0: no limit.
  Result<std::uint64_t> wanted() const;

  // Engine mirror: tells QEMU the wanted limit when it may have another one. What an earlier run has told it is not
  // known, so the first call always does. The copy must be running.
  Status tell_qemu();

  // Engine handover: waits until `bytes`, which were begun to be copied at `began_ms`, took as long as the wanted limit
  // says. Ends early when `stop` fails or the job is left, and follows a limit that changes meanwhile.
  Status hold_back(std::uint64_t bytes, std::int64_t began_ms, const std::function<Status()>& stop);

 private:
  Swap& swap_;
  std::optional<std::uint64_t> told_;  // what QEMU has
};

}  // namespace poolshift
