// The target is made ready; the guest's disk is not touched. Mirror: it is created or tagged, and brought to the
// source's size, because QEMU copies only between images of exactly the same size. Handover: an existing one is set
// aside, because the clone takes its name.
#include <fmt/core.h>

#include "flow/flow.h"
#include "flow/identity.h"
#include "flow/staging.h"
#include "flow/tag.h"

namespace poolshift {

namespace {

Status create_target(const JobRecord& record, Cluster& cluster) {
  ImageSpec tagged = record.target_spec;
  tagged.metadata[kJobKey] = record.job_id;
  return create_by_staging(cluster, staging_name(record), record.target, tagged);
}

Status verify_target(const JobRecord& record, Cluster& cluster) {
  const auto target = cluster.image(record.target);
  if (!target) return target.error();
  if (job_of(*target) != record.job_id || !target->watchers.empty() ||
      target->spec.size_bytes != record.source_size_bytes) {
    return Error{
        ErrorCode::busy,
        fmt::format("target {} was changed by somebody else while it was made ready", to_string(record.target)),
        "Find out who uses it, or choose another target."};
  }
  return {};
}

// Before an existing target is touched: it is the image that validation saw, and still empty and unused.
Status expect_as_validated(const JobRecord& record, Cluster& cluster) {
  POOLSHIFT_TRY(expect_id(cluster, record.target, record.target_id));
  const auto target = cluster.image(record.target);
  if (!target) return target.error();
  const auto used = cluster.usage(record.target);
  if (!used) return used.error();
  if (target->watchers.empty() && target->snapshots.empty() && used->bytes == 0) return {};
  return Error{ErrorCode::busy, fmt::format("target {} came into use after it was checked", to_string(record.target)),
               "Find out who uses it, or choose another target."};
}

// An image that is set aside keeps everything that it is, so that undo only has to give it its name back.
Status set_target_aside(const JobRecord& record, Cluster& cluster) {
  const ImageName aside = staging_name(record);
  POOLSHIFT_TRY(expect_as_validated(record, cluster));
  POOLSHIFT_TRY(cluster.set_metadata(record.target, kJobKey, record.job_id));
  const auto target = cluster.image(record.target);
  if (!target) return target.error();
  const auto used = cluster.usage(record.target);
  if (!used) return used.error();
  if (!target->watchers.empty() || used->bytes != 0) {
    return Error{ErrorCode::busy,
                 fmt::format("target {} came into use while it was made ready", to_string(record.target)),
                 "Find out who uses it, or choose another target."};
  }
  return cluster.rename_image(record.target, aside);
}

Status prepare_handover(Swap& swap, Cluster& cluster) {
  JobRecord& record = swap.record;
  auto& system = swap.ports.system;
  if (!record.create_target) POOLSHIFT_TRY(set_target_aside(record, cluster));
  if (record.offline) return {};
  POOLSHIFT_TRY(system.create_overlay(record.overlay_path, record.source_size_bytes));
  const auto bytes = system.file_bytes(record.overlay_path);
  if (!bytes) return bytes.error();
  record.overlay_bytes = *bytes;
  return {};
}

Status prepare_mirror(Swap& swap, Cluster& cluster) {
  const JobRecord& record = swap.record;
  if (record.create_target) {
    POOLSHIFT_TRY(create_target(record, cluster));
  } else {
    POOLSHIFT_TRY(expect_as_validated(record, cluster));
    POOLSHIFT_TRY(cluster.set_metadata(record.target, kJobKey, record.job_id));
  }
  if (record.target_spec.size_bytes != record.source_size_bytes) {
    POOLSHIFT_TRY(cluster.resize_image(record.target, record.source_size_bytes));
  }
  return verify_target(record, cluster);
}

}  // namespace

Result<Phase> prepare(Swap& swap) {
  const bool is_handover = swap.record.engine == kHandover;
  swap.show_progress({"preparing the target", 0, 0, 0, -1});
  auto cluster = swap.target_cluster();
  if (!cluster) return cluster.error();
  POOLSHIFT_TRY(is_handover ? prepare_handover(swap, **cluster) : prepare_mirror(swap, **cluster));
  POOLSHIFT_TRY(swap.stop_if_cancelled());
  return is_handover ? Phase::pause : Phase::copy;
}

}  // namespace poolshift
