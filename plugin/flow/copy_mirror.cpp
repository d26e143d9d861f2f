// Engine `mirror`: QEMU copies the whole disk to the target through libvirt (virDomainBlockCopy) and keeps merging in
// what the guest writes, until both are the same. The guest stays on the source.
#include <fmt/core.h>

#include <algorithm>

#include "base/log.h"
#include "flow/convergence.h"
#include "flow/flow.h"
#include "flow/rate.h"
#include "flow/write_limit.h"

namespace poolshift {

namespace {

constexpr std::int64_t kLookEveryMs = 100;
constexpr std::int64_t kFirstRateWindowMs = 500;
constexpr std::int64_t kRateWindowMs = 2'000;
constexpr std::int64_t kStalledAfterMs = 10'000;
constexpr std::uint64_t kMiB = 1024 * 1024;
// Measured (docs/adr/0004-copy-granularity.md): 1 MiB chunks are faster for a quiet guest, 64 KiB for a busy one.
constexpr double kBusyWritesPerSecond = 20;

class Follower {
 public:
  explicit Follower(Swap& swap) : swap_(swap), record_(swap.record), hypervisor_(swap.ports.hypervisor), rate_(swap) {}

  Result<Phase> follow() {
    for (;;) {
      POOLSHIFT_TRY(swap_.stop_if_cancelled());
      const auto progress = hypervisor_.mirror_progress(record_.domain_uuid, record_.disk);
      if (!progress) return progress.error();
      if (*progress) {
        record_.copied_bytes = (*progress)->copied_bytes;
        POOLSHIFT_TRY(rate_.tell_qemu());
      }
      if (!*progress || (*progress)->copied_bytes >= (*progress)->total_bytes) {
        const auto next = look_at_domain();
        if (!next || *next != Phase::copy) return next;
      }
      if (*progress) {
        POOLSHIFT_TRY(converge(**progress));
        POOLSHIFT_TRY(show(**progress));
      }
      if (auto waited = swap_.wait_ms(kLookEveryMs); !waited) {
        POOLSHIFT_TRY(restore_write_limit(swap_));  // nobody will follow: the guest is not kept slow meanwhile
        return waited.error();
      }
    }
  }

 private:
  // The XML is the truth: a job that is gone may have failed, and cur == end is not ready.
  Result<Phase> look_at_domain() {
    const auto facts = observe(swap_);
    if (!facts) return facts.error();
    const Verdict verdict = decide(Phase::copy, *facts);
    if (verdict.next == Phase::undo) {
      return Error{ErrorCode::failed,
                   fmt::format("the copy of disk '{}' of domain '{}' ended before it was complete: {}", record_.disk,
                               record_.domain_name, verdict.why),
                   "Look at libvirt's and QEMU's log of the domain, and at 'ceph health detail'."};
    }
    if (verdict.next != Phase::copy || !facts->copy_is_ready) return verdict.next;
    POOLSHIFT_TRY(remember_who_has_the_source(swap_));
    return Phase::pivot;
  }

  Status converge(const MirrorProgress& progress) {
    if (progress.copied_bytes == 0) return {};
    const auto counters = hypervisor_.disk_counters(record_.domain_uuid, record_.disk);
    if (!counters) return counters.error();
    const auto limit = convergence_.look(swap_.ports.system.monotonic_ms(), progress, counters->written_bytes);
    if (!limit) return {};
    if (!record_.limit_to_restore) {
      const auto before = hypervisor_.write_limit(record_.domain_uuid, record_.disk);
      if (!before) return before.error();
      record_.limit_to_restore = *before;
    }
    record_.convergence = fmt::format("the guest's writes were limited to {} bytes/s", *limit);
    POOLSHIFT_TRY(swap_.save());
    log().info("job {}: {}", record_.job_id, record_.convergence);
    return hypervisor_.set_write_limit(record_.domain_uuid, record_.disk, lowered(*record_.limit_to_restore, *limit));
  }

  Status show(const MirrorProgress& progress) {
    const auto now_ms = swap_.ports.system.monotonic_ms();
    Progress shown{"copying", progress.copied_bytes, progress.total_bytes, 0, -1};
    // QEMU zeroes a target that it may unmap before it copies, and does not count that.
    if (progress.copied_bytes == 0 && progress.highest_written_bytes != 0) {
      shown = {"zeroing the target", progress.highest_written_bytes, record_.source_size_bytes, 0, -1};
    }
    if (shown.step != step_ || shown.done_bytes < rate_done_bytes_) start_rate(now_ms, shown);
    step_ = shown.step;
    if (shown.done_bytes != last_done_bytes_) last_advance_ms_ = now_ms;
    last_done_bytes_ = shown.done_bytes;
    const auto wanted_ms = bytes_per_s_ == 0 ? kFirstRateWindowMs : kRateWindowMs;
    if (const auto window_ms = now_ms - rate_began_ms_; window_ms >= wanted_ms) {
      bytes_per_s_ = (shown.done_bytes - rate_done_bytes_) * 1000 / static_cast<std::uint64_t>(window_ms);
      start_rate(now_ms, shown);
    }
    shown.bytes_per_s = bytes_per_s_;
    if (bytes_per_s_ != 0) {
      shown.left_s =
          static_cast<std::int64_t>((shown.total_bytes - std::min(shown.done_bytes, shown.total_bytes)) / bytes_per_s_);
    }
    if (now_ms - last_advance_ms_ >= kStalledAfterMs) POOLSHIFT_TRY(explain_stall(shown));
    swap_.show_progress(shown);
    return {};
  }

  void start_rate(std::int64_t now_ms, const Progress& shown) {
    if (rate_began_ms_ == 0 || shown.step != step_) last_advance_ms_ = now_ms;
    rate_began_ms_ = now_ms;
    rate_done_bytes_ = shown.done_bytes;
  }

  Status explain_stall(Progress& shown) {
    auto cluster = swap_.target_cluster();
    if (!cluster) return cluster.error();
    const auto pool = (*cluster)->pool(record_.target.pool);
    if (!pool) return pool.error();
    shown.step = pool->full ? fmt::format("stalled: pool '{}' is full or over its quota", record_.target.pool)
                            : "stalled: the copy does not advance";
    return {};
  }

  Swap& swap_;
  JobRecord& record_;
  Hypervisor& hypervisor_;
  Convergence convergence_;
  Rate rate_;
  std::string step_;
  std::int64_t rate_began_ms_ = 0;
  std::uint64_t rate_done_bytes_ = 0;
  std::uint64_t last_done_bytes_ = 0;
  std::int64_t last_advance_ms_ = 0;
  std::uint64_t bytes_per_s_ = 0;
};

Result<bool> guest_is_busy(Swap& swap) {
  if (!swap.counters_before) return true;
  const auto now = swap.ports.hypervisor.disk_counters(swap.record.domain_uuid, swap.record.disk);
  if (!now) return now.error();
  const auto writes = now->write_requests - swap.counters_before->counters.write_requests;
  const double seconds = std::max(swap.seconds_since(swap.counters_before->monotonic_ms), 0.1);
  return static_cast<double>(writes) / seconds >= kBusyWritesPerSecond;
}

Status start(Swap& swap) {
  JobRecord& record = swap.record;
  const auto busy = guest_is_busy(swap);
  if (!busy) return busy.error();
  MirrorOptions options;
  options.target = record.target;
  options.access = record.target_access;
  const auto bandwidth = Rate(swap).wanted();
  if (!bandwidth) return bandwidth.error();
  options.bandwidth_bytes_per_s = *bandwidth;
  // With large chunks a few small writes a second make more dirty than a copy with a limit gets done.
  if (!*busy && *bandwidth == 0) {
    options.granularity_bytes = kMiB;
    options.buffer_bytes = 64 * kMiB;
  }
  record.copy_started = true;
  POOLSHIFT_TRY(swap.save());
  return swap.ports.hypervisor.start_mirror(record.domain_uuid, record.disk, options);
}

}  // namespace

Result<Phase> copy_mirror(Swap& swap) {
  const auto facts = observe(swap);
  if (!facts) return facts.error();
  if (facts->copy == Facts::Copy::none && !swap.record.copy_started) POOLSHIFT_TRY(start(swap));
  return Follower(swap).follow();
}

}  // namespace poolshift
