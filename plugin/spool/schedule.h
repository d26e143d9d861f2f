// Which of the waiting requests may be started now, and what follows from the end of a swap. Pure decisions: the worker
// (worker.h) carries them out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "spool/spool.h"

namespace poolshift {

struct WorkerLimits {
  unsigned parallel = 2;                    // swaps at once on this host
  std::uint64_t bandwidth_bytes_per_s = 0;  // of all of them together; 0: no limit
  unsigned attempts = 10;                   // of a request, before it is given up or left to an operator
};

struct WaitingRequest {
  SpoolRequest request;
  Retry retry;
};

// Why a waiting request is not started now.
enum class WaitsFor { nothing, its_window, its_next_attempt, others_of_its_rule, a_free_place };
std::string_view name_of(WaitsFor what);

// For each of `waiting`, which come in the order in which they were asked for. A request that may not be started lets
// later ones pass. `running` does not have those that are held: they do nothing.
std::vector<WaitsFor> schedule(const std::vector<WaitingRequest>& waiting, const std::vector<SpoolRequest>& running,
                               unsigned parallel, std::int64_t now_ms, int minute_of_day);

// What each of `running` may use, the limit of its own request counted in; 0: no limit.
std::uint64_t bandwidth_share(const SpoolRequest& request, std::size_t running, std::uint64_t total_bytes_per_s);

// What becomes of a request whose swap has ended so: `result` is one of enum poolshift_result, `report` as
// poolshift_job_wait() gives it.
enum class Fate {
  done,
  fails,      // refused or failed for good, or an operator cancelled it
  try_again,  // nothing was changed, or all was undone, and the cause may pass
  take_up,    // held, and going on may help: `recover` it later
  is_held,    // an operator is needed
};
Fate fate_of(int result, const nlohmann::json& report);

// After so many attempts that have failed: 10 s, doubled each time, at most 30 minutes.
std::int64_t back_off_ms(unsigned attempts);

}  // namespace poolshift
