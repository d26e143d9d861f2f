#include "work.h"

#include <fmt/core.h>

#include <ctime>

#include "adapters/posix_system.h"

namespace poolshift::cli {

namespace {

constexpr std::int64_t kLeavePatienceMs = 20'000;

}  // namespace

int local_minute_of_day(std::int64_t wall_clock_ms) {
  const auto seconds = static_cast<std::time_t>(wall_clock_ms / 1000);
  std::tm local{};
  localtime_r(&seconds, &local);
  return local.tm_hour * 60 + local.tm_min;
}

WorkerProcess::WorkerProcess(Host& host, const Options& options, std::function<bool(const SpoolRequest&)> mine,
                             std::function<void(const std::string&)> say)
    : system_(make_posix_system()), spool_(*system_, options.host.state_dir), runner_(make_swap_runner(host)) {
  options_.limits = options.worker;
  options_.limits.bandwidth_bytes_per_s = options.bandwidth_bytes_per_s.value_or(0);
  options_.mine = std::move(mine);
  options_.minute_of_day = local_minute_of_day;
  options_.say = std::move(say);
}

Status WorkerProcess::take_over() {
  auto lock = spool_.lock_worker();
  if (!lock) return lock.error();
  auto worker = std::make_unique<Worker>(*system_, spool_, *runner_, options_);
  POOLSHIFT_TRY(worker->take_up());
  lock_ = std::move(*lock);
  worker_ = std::move(worker);
  return {};
}

std::optional<Worker::Outlook> WorkerProcess::step() {
  const auto outlook = worker_->step();
  if (outlook) {
    said_.clear();
    return *outlook;
  }
  if (said_ != outlook.error().message) {
    said_ = outlook.error().message;
    options_.say(fmt::format("{}. {} It is tried again.", said_, outlook.error().advice));
  }
  return std::nullopt;
}

void WorkerProcess::leave() {
  left_ms_ = system_->monotonic_ms();
  worker_->leave();
}

bool WorkerProcess::must_end() { return is_leaving() && system_->monotonic_ms() - left_ms_ > kLeavePatienceMs; }

}  // namespace poolshift::cli
