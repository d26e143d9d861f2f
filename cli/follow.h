// Follows a job that this process runs, until it has ended.
#pragma once

#include <string>

#include "library.h"
#include "progress.h"
#include "signals.h"

namespace poolshift::cli {

// The first SIGINT or SIGTERM asks the job to cancel, the second to be left to 'poolshift recover', and the
// third leaves it without waiting for the library.
class Follower {
 public:
  Follower(Job& job, Progress& progress, SignalWatch& signals, std::string host_arguments);

  Reply run();
  // The job was left, and did not end in some better way before that.
  bool left(const Reply& ended) const;
  std::string left_message() const;
  bool forced() const { return asked_ == Asked::force; }

 private:
  void on_signal();
  void try_cancel();
  void ask_leave();
  Reply ended_by_force() const;

  enum class Asked { nothing, cancel, leave, force };

  Job& job_;
  Progress& progress_;
  SignalWatch& signals_;
  std::string host_arguments_;
  Document last_status_;
  Asked asked_ = Asked::nothing;
  bool cancel_answered_ = false;
};

}  // namespace poolshift::cli
