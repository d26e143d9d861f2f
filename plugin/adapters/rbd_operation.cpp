#include "adapters/rbd_operation.h"

#include <errno.h>
#include <fmt/core.h>
#include <signal.h>

#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

namespace poolshift {
namespace {

using Clock = std::chrono::steady_clock;

// What the waiting thread and the working one share.
class Operation {
 public:
  explicit Operation(Work work) : work_(std::move(work)) {}

  void carry_out() {
    int result = -EIO;
    try {
      result = work_([this](std::uint64_t done, std::uint64_t total) { return report(done, total); });
    } catch (const std::exception&) {
    }
    work_ = nullptr;  // the image is closed before anybody hears that it is over
    const std::lock_guard lock(mutex_);
    result_ = result;
    changed_.notify_all();
  }

  std::optional<int> wait(std::chrono::milliseconds duration) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, duration, [&] { return result_.has_value(); });
    return result_;
  }

  void abandon() {
    const std::lock_guard lock(mutex_);
    is_abandoned_ = true;
  }

  struct Heard {
    std::uint64_t done = 0;
    std::uint64_t total = 0;
    std::uint64_t reports = 0;
  };
  Heard heard() {
    const std::lock_guard lock(mutex_);
    return heard_;
  }

 private:
  bool report(std::uint64_t done, std::uint64_t total) {
    const std::lock_guard lock(mutex_);
    heard_ = {done, total, heard_.reports + 1};
    return !is_abandoned_;
  }

  Work work_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Heard heard_;
  bool is_abandoned_ = false;
  std::optional<int> result_;
};

// Leaves the thread to itself on every way out but the one on which it has ended, also when a callback throws.
class Worker {
 public:
  Worker(std::shared_ptr<Operation> operation, const std::function<void()>& abandoned)
      : operation_(std::move(operation)), abandoned_(abandoned) {}
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  ~Worker() {
    if (!thread_.joinable()) return;
    operation_->abandon();
    thread_.detach();
    try {
      if (abandoned_) abandoned_();
    } catch (const std::exception&) {  // it was to be of help; the call ends as it would without it
    }
  }

  bool start() {
    try {
      thread_ = start_thread([operation = operation_] { operation->carry_out(); });
    } catch (const std::system_error&) {
      return false;
    }
    return true;
  }
  void join() { thread_.join(); }

 private:
  const std::shared_ptr<Operation> operation_;
  const std::function<void()>& abandoned_;
  std::thread thread_;
};

// Whether the effect has been there for long enough.
class EffectWatch {
 public:
  EffectWatch(const Waiting& waiting, Clock::time_point now)
      : waiting_(waiting), next_look_(now + waiting.pace.look_every) {}

  bool is_settled(Clock::time_point now) {
    if (!waiting_.is_done || now < next_look_) return false;
    next_look_ = now + waiting_.pace.look_every;
    const bool was_seen = is_seen_;
    is_seen_ = waiting_.is_done();
    if (is_seen_ && !was_seen) seen_at_ = now;
    return is_seen_ && now - seen_at_ >= waiting_.pace.settle;
  }

 private:
  const Waiting& waiting_;
  Clock::time_point next_look_;
  bool is_seen_ = false;
  Clock::time_point seen_at_;
};

}  // namespace

std::thread start_thread(std::function<void()> function) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    std::thread thread(std::move(function));
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return thread;
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
}

Result<int> run_bounded(Work work, const std::string& what, const Waiting& waiting) {
  const auto operation = std::make_shared<Operation>(std::move(work));
  Worker worker(operation, waiting.abandoned);
  if (!worker.start()) return -EAGAIN;
  const auto& pace = waiting.pace;
  EffectWatch effect(waiting, Clock::now());
  std::uint64_t reports = 0;
  auto heard_at = Clock::now();
  for (;;) {
    const auto heard = operation->heard();
    if (waiting.watching && !waiting.watching(heard.done, heard.total)) {
      return Error{ErrorCode::left, fmt::format("{}: not waited for", what), "It goes on by itself."};
    }
    if (const auto result = operation->wait(pace.ask_every)) {
      worker.join();
      return *result;
    }
    if (waiting.while_waiting) POOLSHIFT_TRY(waiting.while_waiting());
    const auto now = Clock::now();
    if (heard.reports != reports) heard_at = now;
    reports = heard.reports;
    if (effect.is_settled(now)) return 0;
    if (now - heard_at < pace.silence) continue;
    return Error{ErrorCode::unreachable,
                 fmt::format("{}: no answer for {} s from the client that has the image open, or from the cluster",
                             what, std::chrono::duration_cast<std::chrono::seconds>(pace.silence).count()),
                 "Look at 'rbd status' of the image and at 'ceph status', then try again."};
  }
}

}  // namespace poolshift
