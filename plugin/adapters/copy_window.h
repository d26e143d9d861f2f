// The operations of one ObjectCopier::copy() that are under way. Their callbacks come from other threads and use the
// window: it does not end before them, also when an exception leaves the function that it is in.
#pragma once

#include <errno.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "ports/storage.h"

namespace poolshift {

class CopyWindow {
 public:
  explicit CopyWindow(unsigned in_flight) : limit_(std::max(in_flight, 1U)) {}
  CopyWindow(const CopyWindow&) = delete;
  CopyWindow& operator=(const CopyWindow&) = delete;
  ~CopyWindow() { wait_for_all(); }

  // False after a failure.
  bool wait_for_room() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return under_way_ < limit_; });
    return first_error_ == 0;
  }
  void wait_for_all() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return under_way_ == 0; });
  }
  void begun() {
    const std::lock_guard lock(mutex_);
    ++under_way_;
  }
  void ended(int result) {
    const std::lock_guard lock(mutex_);
    --under_way_;
    if (result >= 0) {
      ++copies_.copied;
    } else if (result == -EEXIST) {
      ++copies_.present;
    } else if (result == -ENOENT) {
      ++copies_.absent;
    } else if (first_error_ == 0) {
      first_error_ = result;
    }
    changed_.notify_all();  // with the mutex held: the window may be gone right after it is let go
  }
  int first_error() const { return first_error_; }
  const ObjectCopies& copies() const { return copies_; }

 private:
  const unsigned limit_;
  std::mutex mutex_;
  std::condition_variable changed_;
  unsigned under_way_ = 0;
  int first_error_ = 0;
  ObjectCopies copies_;
};

}  // namespace poolshift
