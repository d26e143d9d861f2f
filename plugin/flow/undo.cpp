// The guest is on the source and stays there: the copy is ended, the target is given back as it was. No data is
// deleted: a target that may hold data of ours goes to the trash, and one that was not ours is made anew, empty. A
// handover's clone is removed when it has no data of its own; the target that was set aside gets its name back.
#include <fmt/core.h>

#include "flow/flow.h"
#include "flow/handover.h"
#include "flow/identity.h"
#include "flow/staging.h"
#include "flow/tag.h"
#include "flow/write_limit.h"

namespace poolshift {

namespace {

constexpr std::int64_t kLookEveryMs = 100;
constexpr std::int64_t kCancelPatienceMs = 60'000;

Error not_ending(const JobRecord& record) {
  return {ErrorCode::failed,
          fmt::format("the copy of disk '{}' of domain '{}' does not end although it was cancelled", record.disk,
                      record.domain_name),
          fmt::format("Writes to pool '{}' may be blocked (full, over its quota, OSDs down): mend that, then run "
                      "'poolshift recover {}'. The guest runs on the source.",
                      record.target.pool, record.job_id)};
}

Status end_copy(Swap& swap) {
  const JobRecord& record = swap.record;
  const auto deadline_ms = swap.ports.system.monotonic_ms() + kCancelPatienceMs;
  bool asked = false;
  for (;;) {
    const auto facts = look_before_undo(swap);
    if (!facts) return facts.error();
    if (facts->copy == Facts::Copy::none) return {};
    if (!asked) POOLSHIFT_TRY(swap.ports.hypervisor.cancel_mirror(record.domain_uuid, record.disk));
    asked = true;
    if (swap.ports.system.monotonic_ms() >= deadline_ms) return not_ending(record);
    POOLSHIFT_TRY(swap.wait_ms(kLookEveryMs));
  }
}

// Ok when it is not there, or not ours.
Status put_away(Swap& swap, Cluster& cluster, const ImageName& name) {
  const auto image = cluster.image(name);
  if (!image && image.error().code == ErrorCode::not_found) return finish_move_to_trash(cluster, name);
  if (!image) return image.error();
  const bool is_named_ours = name == staging_name(swap.record) || name == hidden_name(swap.record);
  if (!is_named_ours && job_of(*image) != swap.record.job_id) return {};
  POOLSHIFT_TRY(prove_unused(swap, cluster, name));
  return cluster.move_to_trash(name);
}

Status give_target_back(Swap& swap, Cluster& cluster) {
  const JobRecord& record = swap.record;
  const auto target = cluster.image(record.target);
  const bool is_gone = !target && target.error().code == ErrorCode::not_found;
  if (!target && !is_gone) return target.error();
  if (target && job_of(*target) != record.job_id) return {};  // never tagged, given back already, or somebody else's
  if (target) {
    POOLSHIFT_TRY(prove_unused(swap, cluster, record.target));
    const auto used = cluster.usage(record.target);
    if (!used) return used.error();
    if (used->bytes == 0) {
      if (target->spec.size_bytes != record.target_spec.size_bytes) {
        POOLSHIFT_TRY(cluster.resize_image(record.target, record.target_spec.size_bytes));
      }
      return cluster.remove_metadata(record.target, kJobKey);
    }
  }
  POOLSHIFT_TRY(finish_move_to_trash(cluster, record.target));
  return create_by_staging(cluster, staging_name(record), record.target, record.target_spec);
}

// The guest runs on the source alone, and its definition says so.
Status undo_switch(Swap& swap) {
  const JobRecord& record = swap.record;
  if (record.offline) return give_definition_back(swap);
  POOLSHIFT_TRY(bring_guest_back(swap, kCancelPatienceMs));
  POOLSHIFT_TRY(end_copy(swap));
  // Of a domain that is off the overlay must be empty before its definition may forget it.
  POOLSHIFT_TRY(drop_overlay(swap, record.overlay_committed));
  return point_definition_at(swap, record.source, record.source_access);
}

// librbd makes an image, then its tie to the parent: one of our name without the tie is what a crash in between left.
// Should it be somebody else's after all, it is empty, and it is found in the trash.
Status put_half_a_clone_away(Swap& swap, Cluster& cluster, const Image& target) {
  const JobRecord& record = swap.record;
  if (!record.copy_started || !job_of(target).empty() || !target.parent.empty()) return {};
  const auto used = cluster.usage(record.target);
  if (!used) return used.error();
  if (used->bytes != 0 || target.spec.size_bytes != record.source_size_bytes) return {};
  POOLSHIFT_TRY(prove_unused(swap, cluster, record.target));
  return cluster.move_to_trash(record.target);
}

// A copy that was asked for before the guardian stepped in, and begun after it, has written what the source has.
Error written_clone(const JobRecord& record, const ImageName& clone) {
  return {
      ErrorCode::failed,
      fmt::format("image {}, the clone that job '{}' made, has data of its own", to_string(clone), record.job_id),
      fmt::format("The guest is on the source and never was on the clone. When 'rbd status' shows that nobody uses it, "
                  "remove it with 'rbd rm {}' and run 'poolshift recover {}'.",
                  to_string(clone), record.job_id)};
}

Status remove_clone(Swap& swap, Cluster& cluster) {
  const JobRecord& record = swap.record;
  const ImageName name = record.offline ? hidden_name(record) : record.target;
  const auto clone = cluster.image(name);
  if (!clone && clone.error().code != ErrorCode::not_found) return clone.error();
  if (clone && clone->parent == parent_of_our_clone(record)) {
    POOLSHIFT_TRY(prove_unused(swap, cluster, name));
    const auto removed = cluster.remove_untouched_clone(name);
    if (!removed && removed.error().code == ErrorCode::refused) return written_clone(record, name);
    if (!removed) return removed;
  } else if (clone) {
    POOLSHIFT_TRY(record.offline ? put_away(swap, cluster, name) : put_half_a_clone_away(swap, cluster, *clone));
  } else {
    POOLSHIFT_TRY(finish_move_to_trash(cluster, name));
  }
  auto source_cluster = swap.source_cluster();
  if (!source_cluster) return source_cluster.error();
  return (*source_cluster)->remove_snapshot(record.source, snapshot_name(record));
}

Status give_name_back(Swap& swap, Cluster& cluster) {
  const JobRecord& record = swap.record;
  const ImageName aside = staging_name(record);
  const auto image = cluster.image(aside);
  if (!image && image.error().code != ErrorCode::not_found) return image.error();
  const bool is_ours = image && job_of(*image) == record.job_id;
  if (is_ours) POOLSHIFT_TRY(expect_id(cluster, aside, record.target_id));
  if (is_ours) POOLSHIFT_TRY(cluster.rename_image(aside, record.target));
  const auto target = cluster.image(record.target);
  if (!target && target.error().code == ErrorCode::not_found) return {};  // it was never there, or went elsewhere
  if (!target) return target.error();
  if (job_of(*target) != record.job_id) return {};
  return cluster.remove_metadata(record.target, kJobKey);
}

}  // namespace

Result<Facts> look_before_undo(Swap& swap) {
  auto facts = observe(swap);
  if (!facts) return facts;
  const Verdict verdict = decide(Phase::undo, *facts);
  if (verdict.next == Phase::undo) return facts;
  return Error{ErrorCode::failed, fmt::format("the swap cannot be undone: {}", verdict.why),
               "Look at 'virsh domblklist' before anything else is done."};
}

Result<Phase> undo(Swap& swap) {
  const JobRecord& record = swap.record;
  const bool is_handover = record.engine == kHandover;
  swap.show_progress({"undoing", 0, 0, 0, -1});
  POOLSHIFT_TRY(restore_write_limit(swap));
  POOLSHIFT_TRY(is_handover ? undo_switch(swap) : end_copy(swap));
  auto cluster = swap.target_cluster();
  if (!cluster) return cluster.error();
  POOLSHIFT_TRY(finish_rename(**cluster, staging_name(record), record.target));
  if (is_handover) {
    POOLSHIFT_TRY(remove_clone(swap, **cluster));
    POOLSHIFT_TRY(give_name_back(swap, **cluster));
  } else if (record.create_target) {
    POOLSHIFT_TRY(put_away(swap, **cluster, staging_name(record)));
    POOLSHIFT_TRY(put_away(swap, **cluster, record.target));
  } else {
    POOLSHIFT_TRY(give_target_back(swap, **cluster));
  }
  return Phase::undone;
}

}  // namespace poolshift
