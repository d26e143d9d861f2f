// Makes the swaps that the spool's requests ask for. One worker per state folder; it may be killed at any time, and the
// next one finds what was begun: a request that is in running/ and has a job (by the job's label) is gone on with, one
// that has none was never begun. The journals are the truth about the jobs, the spool only says what is wanted.
//
//   take_up()   once: what the worker before had taken
//   step()      then again and again: looks, ends, starts; returns what there is to wait for
//
// Nothing here waits or sleeps. Not for several threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "spool/schedule.h"
#include "spool/spool.h"

namespace poolshift {

// A swap that somebody carries out.
class SpoolJob {
 public:
  virtual ~SpoolJob() = default;

  struct Ended {
    int result = 0;  // enum poolshift_result
    nlohmann::json report;
  };
  // Empty while it runs.
  virtual std::optional<Ended> ended() = 0;
  // As poolshift_job_wait() gives it, last seen by ended().
  virtual const nlohmann::json& status() const = 0;
  // False: not now; ask again.
  virtual bool set_bandwidth(std::uint64_t bytes_per_s) = 0;
  // Asks that this process stops following it. False: only the end of the process does that.
  virtual bool leave() = 0;
};

// What the worker needs of libpoolshift.
class SwapRunner {
 public:
  virtual ~SwapRunner() = default;

  virtual Result<std::unique_ptr<SpoolJob>> start(const nlohmann::json& swap_request) = 0;
  // A job that nobody runs is recovered.
  virtual Result<std::unique_ptr<SpoolJob>> take_up(const std::string& job_id) = 0;
  // One that another process runs is looked at until it ends.
  virtual Result<std::unique_ptr<SpoolJob>> attach(const std::string& job_id) = 0;
  // "jobs" of poolshift_jobs().
  virtual Result<nlohmann::json> jobs() = 0;
};

class Worker {
 public:
  struct Options {
    WorkerLimits limits;
    // Which requests are this worker's; empty: all.
    std::function<bool(const SpoolRequest&)> mine;
    // Minutes since midnight, local time.
    std::function<int(std::int64_t wall_clock_ms)> minute_of_day;
    // What was done, one sentence each.
    std::function<void(const std::string&)> say;
  };

  Worker(System& system, Spool& spool, SwapRunner& runner, Options options);

  Status take_up();

  struct Outlook {
    std::size_t running = 0;
    std::size_t held = 0;     // in running/, waiting for an operator or for their next take-up
    std::size_t waiting = 0;  // not started, for whatever reason
    bool is_idle() const { return running == 0 && held == 0 && waiting == 0; }
  };
  // An error is one of the spool's folder; the worker may go on.
  Result<Outlook> step();

  // Starts nothing more.
  void stop_starting() { starts_ = false; }
  // Asks every swap to be left; step() tells when they were. False: some can only be left by the end of this process.
  bool leave();

  struct Running {
    SpoolRequest request;
    unsigned attempts = 0;          // that failed before
    std::string job_id;             // empty: not known yet
    std::unique_ptr<SpoolJob> job;  // null: held
    nlohmann::json report;          // of a held one
    std::int64_t take_up_ms = -1;   // of a held one: when, since the epoch; -1: never
    std::uint64_t told_bandwidth = 0;
    std::optional<SpoolJob::Ended> ended;  // and what follows could not be written down yet
  };
  const std::vector<Running>& running() const { return running_; }
  // Those of the last step.
  const std::vector<WaitingRequest>& waiting() const { return waiting_; }
  const std::vector<WaitsFor>& waits_for() const { return waits_for_; }

 private:
  bool is_mine(const SpoolRequest& request) const { return !options_.mine || options_.mine(request); }
  Status adopt(const SpoolRequest& request, const nlohmann::json& jobs);
  void follow(Running& running, const nlohmann::json& job);
  Status look_at_running();
  Status look_at_held();
  // What the fate of the request is; true: it is no longer in running/.
  Result<bool> conclude(Running& running);
  Result<bool> end(const Running& running, const std::string& outcome, const SpoolJob::Ended& ended);
  Result<bool> wait_again(const Running& running, const SpoolJob::Ended& ended);
  void hold(Running& running, const SpoolJob::Ended& ended, bool take_up);
  Status start_some();
  // False: it cannot be taken now.
  Result<bool> start(const WaitingRequest& waiting);
  void share_bandwidth();
  std::size_t count_running() const;
  void say(const std::string& text) const;

  System& system_;
  Spool& spool_;
  SwapRunner& runner_;
  Options options_;
  bool starts_ = true;
  bool leaving_ = false;
  std::int64_t looked_at_held_ms_ = -1;
  std::vector<Running> running_;
  std::vector<WaitingRequest> waiting_;
  std::vector<WaitsFor> waits_for_;
};

}  // namespace poolshift
