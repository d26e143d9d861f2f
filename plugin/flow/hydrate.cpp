// Engine `handover`: the guest runs on the target, a clone that reads through to the source's snapshot. Here the target
// gets its data, either from OSD to OSD, object by object (offload), or by librbd inside the guest's QEMU (flatten),
// which also cuts the tie in the end. May be stopped and taken up again at any point: an object that is there is left
// alone. Whether it is there only the OSDs know for certain (docs/adr/0011-flatten.md).
#include <fmt/core.h>

#include <algorithm>
#include <optional>
#include <set>

#include "base/log.h"
#include "flow/choose.h"
#include "flow/flow.h"
#include "flow/handover.h"
#include "flow/pacing.h"
#include "flow/rate.h"
#include "flow/recover.h"
#include "flow/same_disk.h"
#include "flow/staging.h"
#include "flow/tag.h"

namespace poolshift {

namespace {

constexpr std::int64_t kBringBackMs = 60'000;
// So many times what is in flight makes a batch, in which nothing else is heard: fewer when a batch takes long.
constexpr std::size_t kMostPerInFlight = 4;
constexpr std::int64_t kShortBatchMs = 400;
constexpr std::int64_t kLongBatchMs = 800;
constexpr std::int64_t kLookAtPoolEveryMs = 2'000;
constexpr std::int64_t kLookAtClientsEveryMs = 1'000;  // a dead one's watch lasts much longer
constexpr std::int64_t kLookAtWatchersEveryMs = 500;
constexpr std::int64_t kFirstRateWindowMs = 500;
constexpr std::int64_t kRateWindowMs = 1'000;
constexpr const char* kOffloading = "hydrating";
// Rebuilding an object map asks for each object of the image whether it is there; librbd's default is 10 at a time.
constexpr const char* kRebuildDepth = "64";
// Each is a whole object read and written by the guest's QEMU: few, for the guest's sake.
constexpr const char* kFlattenDepth = "4";

// What a person may ask for: the guest stays where it is, the rest waits for `recover`.
Status stop_if_asked(Swap& swap) {
  const auto control = swap.stop_if_cancelled();
  if (control || control.error().code != ErrorCode::cancelled) return control;
  swap.record.cancelled = false;  // nothing is taken back
  return Error{
      ErrorCode::cancelled,
      fmt::format("job '{}' was cancelled while the target gets its data; the guest is on the target and stays "
                  "there",
                  swap.record.job_id),
      fmt::format("'poolshift recover {}' goes on with it; until then the source is needed.", swap.record.job_id)};
}

// How many objects librbd works on at a time in the client that has the target open, the guest's QEMU. retire.cpp gives
// back what was set before.
Status set_depth(const JobRecord& record, Cluster& cluster, const char* depth) {
  return cluster.set_metadata(record.target, kDepthKey, depth);
}

class Hydrator {
 public:
  Hydrator(Swap& swap, Cluster& cluster)
      : swap_(swap),
        record_(swap.record),
        cluster_(cluster),
        system_(swap.ports.system),
        rate_(swap),
        object_bytes_(std::uint64_t{1} << swap.record.target_spec.order) {}

  Status offload() {
    const auto objects = cluster_.snapshot_objects(record_.source, snapshot_name(record_));
    if (!objects) return objects.error();
    auto copier = cluster_.object_copier(record_.source, snapshot_name(record_), record_.target);
    if (!copier) return copier.error();
    total_bytes_ = objects->size() * object_bytes_;
    record_.copied_bytes = 0;
    Pacing pacing(usual_write_us());
    std::size_t per_in_flight = 1;
    for (std::size_t at = 0; at < objects->size();) {
      POOLSHIFT_TRY(stop_if_asked(swap_));
      const auto bytes_per_s = rate_.wanted();
      if (!bytes_per_s) return bytes_per_s.error();
      const unsigned in_flight = *bytes_per_s == 0 ? pacing.in_flight() : 1;
      const auto size = std::min(*bytes_per_s == 0 ? in_flight * per_in_flight : 1, objects->size() - at);
      const auto first = objects->begin() + static_cast<std::ptrdiff_t>(at);
      const auto began_ms = system_.monotonic_ms();
      const auto copies = (*copier)->copy({first, first + static_cast<std::ptrdiff_t>(size)}, in_flight);
      if (!copies) return copies.error();
      const auto took_ms = system_.monotonic_ms() - began_ms;
      if (took_ms > kLongBatchMs) per_in_flight = std::max(per_in_flight / 2, std::size_t{1});
      if (took_ms < kShortBatchMs) per_in_flight = std::min(per_in_flight * 2, kMostPerInFlight);
      at += size;
      done_bytes_ = at * object_bytes_;
      record_.copied_bytes += copies->copied * object_bytes_;
      show(kOffloading);
      POOLSHIFT_TRY(give_way(pacing));
      // A limit that is set while a batch is copied begins with the next one.
      const auto limited_bytes = *bytes_per_s == 0 ? 0 : copies->copied * object_bytes_;
      POOLSHIFT_TRY(rate_.hold_back(limited_bytes, began_ms, [this] { return stop_if_asked(swap_); }));
    }
    return {};
  }

  Status rebuild_object_map() {
    POOLSHIFT_TRY(set_depth(record_, cluster_, kRebuildDepth));
    return finished(cluster_.rebuild_object_map(record_.target, watching("rebuilding the object map")));
  }

  Status flatten() {
    POOLSHIFT_TRY(set_depth(record_, cluster_, kFlattenDepth));
    return finished(cluster_.flatten_image(record_.target, watching("flattening")));
  }

  // `trusted`: no client has died at the target since it was made, so its object map is right, and is as long as the
  // clients stay the same. Else librbd flattens without one.
  Status flatten_by_librbd(bool trusted) {
    POOLSHIFT_TRY(say_that_no_limit_holds());
    if (trusted) {
      auto clients = look_at_clients();
      if (!clients) return clients.error();
      clients_ = std::move(*clients);
      const auto flattened = flatten();
      clients_.reset();
      if (!clients_changed_) return flattened;
    }
    // QEMU drops it with the guest's writes blocked until all clients know of it, also one that has just died.
    POOLSHIFT_TRY(wait_for_watches_to_end());
    POOLSHIFT_TRY(cluster_.drop_object_map(record_.target));
    return flatten();
  }

  Status restore_object_map() {
    POOLSHIFT_TRY(wait_for_watches_to_end());
    POOLSHIFT_TRY(cluster_.add_object_map(record_.target, record_.target_spec.features));
    return rebuild_object_map();
  }

 private:
  Status wait_for_watches_to_end() {
    const auto deadline_ms = system_.monotonic_ms() + kWatcherPatienceMs;
    for (;;) {
      const auto target = cluster_.image(record_.target);
      if (!target) return target.error();
      if (target->watchers.size() <= 1 || system_.monotonic_ms() >= deadline_ms) return {};
      POOLSHIFT_TRY(stop_if_asked(swap_));
      POOLSHIFT_TRY(swap_.wait_ms(kLookAtWatchersEveryMs));
    }
  }

  double usual_write_us() const {
    if (!swap_.counters_before || !swap_.counters_at_pause) return 0;
    return mean_write_us(swap_.counters_before->counters, *swap_.counters_at_pause);
  }

  // A guest that is not there has no latency.
  Status give_way(Pacing& pacing) {
    const auto counters = swap_.ports.hypervisor.disk_counters(record_.domain_uuid, record_.disk);
    if (!counters && counters.error().code == ErrorCode::unreachable) return counters.error();
    if (counters) pacing.look(system_.monotonic_ms(), *counters);
    return {};
  }

  // From here on `poolshift set` refuses a limit (Host::set_bandwidth).
  Status say_that_no_limit_holds() {
    if (record_.flattening) return {};
    const auto bytes_per_s = rate_.wanted();
    if (!bytes_per_s) return bytes_per_s.error();
    record_.flattening = true;
    if (*bytes_per_s != 0) {
      record_.notes.push_back(fmt::format("the limit of {} bytes/s did not hold for what was flattened", *bytes_per_s));
      log().warn("job {}: flattening {} takes no notice of the limit of {} bytes/s", record_.job_id,
                 to_string(record_.target), *bytes_per_s);
    }
    return swap_.save();
  }

  // librbd waits while the pool is full: somebody must be told.
  Watching watching(const char* step) {
    done_bytes_ = 0;
    total_bytes_ = 0;
    show(step);
    return [this, step](std::uint64_t done_objects, std::uint64_t total_objects) {
      done_bytes_ = done_objects * object_bytes_;
      total_bytes_ = total_objects * object_bytes_;
      show(step);
      if (swap_.was_left()) return false;
      stopped_ = stop_if_asked(swap_);
      if (stopped_) stopped_ = stop_if_full();
      if (stopped_) stopped_ = stop_if_clients_changed();
      return stopped_.ok();
    };
  }

  Status stop_if_full() {
    if (system_.monotonic_ms() - looked_at_pool_ms_ < kLookAtPoolEveryMs) return {};
    looked_at_pool_ms_ = system_.monotonic_ms();
    const auto& name = record_.target_spec.data_pool.empty() ? record_.target.pool : record_.target_spec.data_pool;
    const auto pool = cluster_.pool(name);
    if (!pool) return pool.error();
    if (!pool->full) return {};
    return Error{
        ErrorCode::failed, fmt::format("pool '{}' is full or over its quota", name),
        fmt::format("Make room or raise the quota, then run 'poolshift recover {}'. The guest is on the target.",
                    record_.job_id)};
  }

  struct Clients {
    std::set<std::string> watchers;
    bool domain_is_active = false;
    bool operator==(const Clients&) const = default;
  };

  Result<Clients> look_at_clients() {
    const auto target = cluster_.image(record_.target);
    if (!target) return target.error();
    const auto domain = swap_.ports.hypervisor.find_domain(record_.domain_uuid);
    if (!domain && domain.error().code != ErrorCode::not_found) return domain.error();
    return Clients{{target->watchers.begin(), target->watchers.end()}, domain && is_active(*domain)};
  }

  // Who goes on for a client that has died gets its lock when its watch has ended: this comes before.
  Status stop_if_clients_changed() {
    if (!clients_ || system_.monotonic_ms() - looked_at_clients_ms_ < kLookAtClientsEveryMs) return {};
    looked_at_clients_ms_ = system_.monotonic_ms();
    const auto clients = look_at_clients();
    if (!clients) return clients.error();
    clients_changed_ = *clients != *clients_;
    if (!clients_changed_) return {};
    return Error{ErrorCode::busy, fmt::format("another client has opened or left {}", to_string(record_.target)),
                 fmt::format("Run 'poolshift recover {}'.", record_.job_id)};
  }

  // Of a call that was watched: why it was not waited for, when that was our doing.
  Status finished(const Status& status) {
    if (status || status.error().code != ErrorCode::left) return status;
    if (!stopped_) return stopped_;
    return swap_.wait_ms(0);  // says `left` in the job's words
  }

  void show(const char* step) {
    const auto now_ms = system_.monotonic_ms();
    if (step_ != step) {
      step_ = step;
      rate_began_ms_ = now_ms;
      rate_done_bytes_ = done_bytes_;
      bytes_per_s_ = 0;
    }
    if (now_ms - rate_began_ms_ >= (bytes_per_s_ == 0 ? kFirstRateWindowMs : kRateWindowMs)) {
      bytes_per_s_ = (done_bytes_ - std::min(rate_done_bytes_, done_bytes_)) * 1'000 /
                     static_cast<std::uint64_t>(now_ms - rate_began_ms_);
      rate_began_ms_ = now_ms;
      rate_done_bytes_ = done_bytes_;
    }
    const auto left_bytes = total_bytes_ - std::min(done_bytes_, total_bytes_);
    const auto left_s = bytes_per_s_ == 0 ? -1 : static_cast<std::int64_t>(left_bytes / bytes_per_s_);
    // librbd tells which object it is at, and passes over those that hold nothing: how much it copies is not known.
    const auto shown_rate = step_ == kOffloading ? bytes_per_s_ : 0;
    swap_.show_progress({step, done_bytes_, total_bytes_, shown_rate, left_s});
  }

  Swap& swap_;
  JobRecord& record_;
  Cluster& cluster_;
  System& system_;
  Rate rate_;
  const std::uint64_t object_bytes_;
  Status stopped_;
  std::int64_t looked_at_pool_ms_ = 0;
  std::optional<Clients> clients_;  // while they may not change
  bool clients_changed_ = false;
  std::int64_t looked_at_clients_ms_ = 0;
  std::string step_;
  std::uint64_t done_bytes_ = 0;
  std::uint64_t total_bytes_ = 0;
  std::int64_t rate_began_ms_ = 0;
  std::uint64_t rate_done_bytes_ = 0;
  std::uint64_t bytes_per_s_ = 0;
};

}  // namespace

Result<Phase> hydrate(Swap& swap) {
  JobRecord& record = swap.record;
  if (record.resume_guest) POOLSHIFT_TRY(bring_guest_back(swap, kBringBackMs));
  POOLSHIFT_TRY(compare_disk(swap));
  auto cluster = swap.target_cluster();
  if (!cluster) return cluster.error();
  if (record.offline) POOLSHIFT_TRY(finish_rename(**cluster, hidden_name(record), record.target));
  POOLSHIFT_TRY(tag_clone(record, **cluster, record.target));  // before it is no longer known by its parent
  const auto target = (*cluster)->image(record.target);
  if (!target) return target.error();
  auto source_cluster = swap.source_cluster();
  if (!source_cluster) return source_cluster.error();
  const auto source = (*source_cluster)->image(record.source);
  // When the tie is cut somebody may have removed it.
  const bool is_gone = !source && source.error().code == ErrorCode::not_found && target->parent.empty();
  if (!source && !is_gone) return source.error();
  Hydrator hydrator(swap, **cluster);
  // A snapshot that somebody took meanwhile must not change: only librbd knows how.
  const bool offload = record.hydration == Hydration::offload && target->snapshots.empty();
  // Then no object is left for the flatten that could be taken for one that is there.
  const bool all_by_osds = offload && !is_gone && source->parent.empty();
  if (!target->parent.empty()) {
    if (offload) POOLSHIFT_TRY(hydrator.offload());
    if (!all_by_osds) {
      // This run has switched the guest to the target; of what was before a run begins nothing is known.
      POOLSHIFT_TRY(hydrator.flatten_by_librbd(swap.counters_at_pause.has_value()));
    } else {
      if (rebuild_is_shorter(record.source_used_bytes, record.target_spec.size_bytes)) {
        POOLSHIFT_TRY(hydrator.rebuild_object_map());
      }
      POOLSHIFT_TRY(hydrator.flatten());
    }
  }
  const auto flat = (*cluster)->image(record.target);
  if (!flat) return flat.error();
  const bool has_lost_map = (record.target_spec.features & ~flat->spec.features & kFeatureObjectMap) != 0;
  const bool was_flat = target->parent.empty() && !all_by_osds;  // an earlier run did not come to its end
  if (has_lost_map || was_flat) POOLSHIFT_TRY(hydrator.restore_object_map());
  if (!offload) record.copied_bytes = record.source_used_bytes;  // librbd does not say
  return Phase::retire;
}

}  // namespace poolshift
