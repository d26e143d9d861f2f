// The guest is on the target. The source is let go and put away, the target gets its own size and is made thin.
// Nothing here can lead back.
#include <fmt/core.h>

#include "flow/flow.h"
#include "flow/handover.h"
#include "flow/identity.h"
#include "flow/same_disk.h"
#include "flow/staging.h"
#include "flow/tag.h"
#include "flow/write_limit.h"

namespace poolshift {

namespace {

constexpr std::int64_t kLookEveryMs = 100;
constexpr std::int64_t kStartPatienceMs = 30'000;
constexpr std::uint64_t kThickerThan = 50;  // one part in so many (2 %)

// A domain that is off has it open nowhere; one that is being started soon has it open.
Status prove_on_target(Swap& swap) {
  const auto deadline_ms = swap.ports.system.monotonic_ms() + kStartPatienceMs;
  for (;;) {
    auto cluster = swap.target_cluster();
    if (!cluster) return cluster.error();
    const auto target = (*cluster)->image(swap.record.target);
    if (!target) return target.error();
    if (!target->watchers.empty()) return {};
    const auto domain = swap.ports.hypervisor.find_domain(swap.record.domain_uuid);
    if (!domain && domain.error().code != ErrorCode::not_found) return domain.error();
    if (domain && !is_active(*domain)) return {};
    if (!domain) {
      return Error{ErrorCode::failed,
                   fmt::format("domain '{}' is no longer defined on this host, and no client has target {} open",
                               swap.record.domain_name, to_string(swap.record.target)),
                   fmt::format("Define it again, with disk '{}' on {}; then run 'poolshift recover {}'.",
                               swap.record.disk, to_string(swap.record.target), swap.record.job_id)};
    }
    if (swap.ports.system.monotonic_ms() >= deadline_ms) break;
    POOLSHIFT_TRY(swap.wait_ms(kLookEveryMs));
  }
  return Error{ErrorCode::failed,
               fmt::format("domain '{}' names target {}, but no client has it open", swap.record.domain_name,
                           to_string(swap.record.target)),
               "Look at 'rbd status' of both images before anything else is done."};
}

// A persistent definition that still names the source would show the guest its old data at the next start.
Status verify_persistent_definition(Swap& swap) {
  const JobRecord& record = swap.record;
  const auto domain = swap.ports.hypervisor.find_domain(record.domain_uuid);
  if (!domain && domain.error().code == ErrorCode::not_found) return {};
  if (!domain) return domain.error();
  for (const auto& disk : domain->persistent_disks) {
    const bool names_overlay = !record.overlay_path.empty() && disk.file_path == record.overlay_path;
    if (disk.image == record.source || names_overlay) {
      return Error{ErrorCode::failed,
                   fmt::format("the persistent definition of domain '{}' still names {} for disk '{}'",
                               record.domain_name, disk.described_source, disk.target),
                   fmt::format("Change it to {} with 'virsh edit', then run 'poolshift recover {}'.",
                               to_string(record.target), record.job_id)};
    }
  }
  return {};
}

Status wait_until_source_is_closed(Swap& swap) {
  const JobRecord& record = swap.record;
  const auto deadline_ms = swap.ports.system.monotonic_ms() + kWatcherPatienceMs;
  for (;;) {
    auto cluster = swap.source_cluster();
    if (!cluster) return cluster.error();
    const auto source = (*cluster)->image(record.source);
    // Put away already, by the run before this one or by somebody else.
    if (!source && source.error().code == ErrorCode::not_found) return {};
    if (!source) return source.error();
    if (source->watchers.empty()) return {};
    if (swap.ports.system.monotonic_ms() >= deadline_ms) {
      return Error{
          ErrorCode::busy,
          fmt::format("source {} is still open in client {}", to_string(record.source), source->watchers.front()),
          fmt::format("Find out who has it open, close it there, then run 'poolshift recover {}'.", record.job_id)};
    }
    swap.show_progress({"waiting until the source is closed", 0, 0, 0, -1});
    POOLSHIFT_TRY(swap.wait_ms(kLookEveryMs));
  }
}

Status grow_target(Swap& swap, Cluster& cluster) {
  const JobRecord& record = swap.record;
  if (record.target_spec.size_bytes == record.source_size_bytes) return {};
  const auto domain = swap.ports.hypervisor.find_domain(record.domain_uuid);
  if (!domain && domain.error().code != ErrorCode::not_found) return domain.error();
  if (domain && is_active(*domain)) {
    return swap.ports.hypervisor.grow_disk(record.domain_uuid, record.disk, record.target_spec.size_bytes);
  }
  const auto target = cluster.image(record.target);
  if (!target) return target.error();
  if (target->spec.size_bytes >= record.target_spec.size_bytes) return {};
  return cluster.resize_image(record.target, record.target_spec.size_bytes);
}

// QEMU writes zeroes where it may not unmap, and copies whole objects: what that cost is given back
// (docs/adr/0003-thin.md).
Status make_thin(Swap& swap, Cluster& cluster) {
  JobRecord& record = swap.record;
  auto used = cluster.usage(record.target);
  if (!used) return used.error();
  if (used->bytes > record.source_used_bytes + record.source_used_bytes / kThickerThan) {
    swap.show_progress({"making the target thin", 0, used->bytes, 0, -1});
    POOLSHIFT_TRY(cluster.sparsify_image(record.target));
    record.sparsified = true;
    used = cluster.usage(record.target);
    if (!used) return used.error();
  }
  record.target_used_bytes = used->bytes;
  return {};
}

// What the switch needed, and the image that had the target's name before, which is empty.
Status clean_up_after_handover(Swap& swap, Cluster& cluster) {
  const JobRecord& record = swap.record;
  POOLSHIFT_TRY(drop_overlay(swap, true));  // the copy that was switched to has merged it
  const auto depth = record.target_spec.metadata.find(kDepthKey);
  POOLSHIFT_TRY(depth == record.target_spec.metadata.end()
                    ? cluster.remove_metadata(record.target, kDepthKey)
                    : cluster.set_metadata(record.target, kDepthKey, depth->second));
  auto source_cluster = swap.source_cluster();
  if (!source_cluster) return source_cluster.error();
  const auto removed = (*source_cluster)->remove_snapshot(record.source, snapshot_name(record));
  if (!removed && removed.error().code != ErrorCode::not_found) return removed;
  const ImageName aside = staging_name(record);
  const auto image = cluster.image(aside);
  if (!image && image.error().code == ErrorCode::not_found) return finish_move_to_trash(cluster, aside);
  if (!image) return image.error();
  if (job_of(*image) != record.job_id) return {};
  POOLSHIFT_TRY(expect_id(cluster, aside, record.target_id));
  return cluster.move_to_trash(aside);
}

Status put_source_away(Swap& swap) {
  if (swap.record.source_after == SourceAfter::keep) return {};
  auto cluster = swap.source_cluster();
  if (!cluster) return cluster.error();
  const auto& name = swap.record.source;
  const auto expected = expect_id(**cluster, name, swap.record.source_id);
  // Then it is in the trash, or on its way there.
  if (!expected && expected.error().code == ErrorCode::not_found) return finish_move_to_trash(**cluster, name);
  if (!expected) return expected;
  if (!swap.record.source_id.empty()) POOLSHIFT_TRY(prove_unused(swap, **cluster, name));
  return finish_move_to_trash(**cluster, name);
}

}  // namespace

Result<Phase> retire(Swap& swap) {
  swap.show_progress({"letting the source go", 0, 0, 0, -1});
  POOLSHIFT_TRY(restore_write_limit(swap));
  POOLSHIFT_TRY(prove_on_target(swap));
  POOLSHIFT_TRY(verify_persistent_definition(swap));
  POOLSHIFT_TRY(compare_disk(swap));
  POOLSHIFT_TRY(wait_until_source_is_closed(swap));
  auto cluster = swap.target_cluster();
  if (!cluster) return cluster.error();
  POOLSHIFT_TRY(grow_target(swap, **cluster));
  POOLSHIFT_TRY(make_thin(swap, **cluster));
  if (swap.record.engine == kHandover) POOLSHIFT_TRY(clean_up_after_handover(swap, **cluster));
  POOLSHIFT_TRY(put_source_away(swap));
  POOLSHIFT_TRY((*cluster)->remove_metadata(swap.record.target, kJobKey));
  return Phase::done;
}

}  // namespace poolshift
