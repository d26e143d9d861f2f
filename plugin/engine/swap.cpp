#include "engine/swap.h"

#include <fmt/core.h>

namespace poolshift {

namespace {
constexpr std::int64_t kProgressEveryMs = 300;
constexpr std::int64_t kPauseLockEveryMs = 50;
}  // namespace

Swap::Swap(Ports ports_in, JobStore& store, JournalWriter journal, JobRecord record_in, const std::atomic<bool>& leave)
    : ports(ports_in), record(std::move(record_in)), store_(store), journal_(std::move(journal)), leave_(leave) {}

Status Swap::save() {
  record.changed_wall_ms = ports.system.wall_clock_ms();
  return journal_.append(record);
}

Result<Cluster*> Swap::connect(const ClusterAccess& access, std::unique_ptr<Cluster>& slot) {
  if (!slot) {
    auto cluster = connect_cluster(ports, access);
    if (!cluster) return cluster.error();
    slot = std::move(*cluster);
  }
  return slot.get();
}

Result<Cluster*> Swap::source_cluster() { return connect(record.source_access, source_cluster_); }

Result<Cluster*> Swap::target_cluster() {
  if (record.target_access == record.source_access) return source_cluster();
  return connect(record.target_access, target_cluster_);
}

void Swap::disconnect() {
  source_cluster_.reset();
  target_cluster_.reset();
}

Status Swap::wait_ms(std::int64_t duration_ms) {
  ++waits_;
  ports.system.sleep_ms(duration_ms);
  if (leave_) {
    return Error{ErrorCode::left, fmt::format("job '{}' was left in phase '{}'", record.job_id, name_of(record.phase)),
                 fmt::format("'poolshift recover {}' goes on with it.", record.job_id)};
  }
  return {};
}

Result<std::uint64_t> Swap::wanted_bandwidth() {
  const auto control = store_.control(record.job_id);
  if (!control) return control.error();
  return control->bandwidth_bytes_per_s.value_or(record.bandwidth_bytes_per_s);
}

Status Swap::stop_if_cancelled() {
  const auto control = store_.control(record.job_id);
  if (!control) return control.error();
  if (!control->cancel) return {};
  record.cancelled = true;
  return Error{ErrorCode::cancelled,
               fmt::format("job '{}' was cancelled in phase '{}'", record.job_id, name_of(record.phase)),
               "The guest is on the source."};
}

void Swap::show_progress(const Progress& progress) {
  const auto now_ms = ports.system.monotonic_ms();
  if (progress.step == progress_step_ && now_ms - progress_shown_ms_ < kProgressEveryMs) return;
  progress_shown_ms_ = now_ms;
  progress_step_ = progress.step;
  store_.show_progress(record.job_id, progress);
}

double Swap::seconds_since(std::int64_t monotonic_ms) const {
  return static_cast<double>(ports.system.monotonic_ms() - monotonic_ms) / 1000.0;
}

Status Swap::take_pause_lock() {
  for (;;) {
    auto lock = store_.lock_pause();
    if (lock) {
      pause_lock_ = std::move(*lock);
      return {};
    }
    if (lock.error().code != ErrorCode::busy) return lock.error();
    show_progress({"waiting until another guest of this host runs again", 0, 0, 0, -1});
    POOLSHIFT_TRY(stop_if_cancelled());
    POOLSHIFT_TRY(wait_ms(kPauseLockEveryMs));
  }
}

Status Swap::begin_pause(const GuardOrder& order) {
  if (order.resume) {
    auto guardian = ports.system.start_guardian(guardian_setup.program, to_text(order), *pause_lock_);
    if (!guardian) return guardian.error();
    guardian_ = std::move(*guardian);
    POOLSHIFT_TRY(guardian_->begin());
  }
  pause_began_ms_ = ports.system.monotonic_ms();
  return {};
}

Status Swap::still_ours() const {
  if (!guardian_ || guardian_->stands_by()) return {};
  return Error{
      ErrorCode::failed,
      fmt::format("the guardian stepped in: domain '{}' was paused for longer than {} ms, or the guardian died",
                  record.domain_name, record.max_pause_ms),
      "Look why the cluster or libvirtd was slow; then try again, with a longer --max-pause or --engine mirror."};
}

void Swap::end_pause() {
  if (pause_began_ms_ >= 0 && record.resume_guest) record.seconds.pause += seconds_since(pause_began_ms_);
  record.resume_guest = false;
  pause_began_ms_ = -1;
  if (guardian_) guardian_->stand_down();
  guardian_.reset();
  pause_lock_.reset();
}

Result<std::unique_ptr<Cluster>> connect_cluster(Ports ports, const ClusterAccess& access) {
  std::string key;
  if (!access.secret_uuid.empty() || !access.secret_usage.empty()) {
    auto secret = ports.hypervisor.secret_value(access);
    // A private secret is nobody's to read; a configuration file may bring a keyring instead.
    const bool keyring_may_do = !access.conf_path.empty() && !secret && secret.error().code == ErrorCode::denied;
    if (!secret && !keyring_may_do) return secret.error();
    if (secret) key = *secret;
  }
  return ports.storage.connect(access, key);
}

}  // namespace poolshift
