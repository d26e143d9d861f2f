// The worker as a process: its spool, its lock and its signals.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "options.h"
#include "signals.h"
#include "spool/worker.h"
#include "spool_swaps.h"

namespace poolshift::cli {

class WorkerProcess {
 public:
  WorkerProcess(Host& host, const Options& options, std::function<bool(const SpoolRequest&)> mine,
                std::function<void(const std::string&)> say);

  Spool& spool() { return spool_; }
  // Null until take_over() was successful.
  Worker* worker() { return worker_ ? worker_.get() : nullptr; }

  Status open() { return spool_.open(); }
  // Becomes the one worker of the state folder, and goes on with what the one before had begun. `busy`.
  Status take_over();
  // A look at everything. Empty after an error of the folder, which is said once; the next step tries again.
  std::optional<Worker::Outlook> step();
  // Asks that all swaps are left; after a while the process has to end without them (see must_end).
  void leave();
  bool is_leaving() const { return left_ms_ >= 0; }
  // What cannot be left in time is as safe as after any other death of this process.
  bool must_end();

 private:
  std::unique_ptr<System> system_;
  Spool spool_;
  std::unique_ptr<SwapRunner> runner_;
  Worker::Options options_;
  std::unique_ptr<FileLock> lock_;
  std::unique_ptr<Worker> worker_;
  std::string said_;  // the last error
  std::int64_t left_ms_ = -1;
};

int local_minute_of_day(std::int64_t wall_clock_ms);

}  // namespace poolshift::cli
