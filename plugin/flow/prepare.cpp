// The target is created or tagged, and brought to the source's size: QEMU copies only between images of exactly the
// same size. The guest's disk is not touched.
#include <fmt/core.h>

#include "flow/flow.h"
#include "flow/staging.h"
#include "flow/tag.h"

namespace poolshift {

namespace {

Status create_target(const JobRecord& record, Cluster& cluster) {
  ImageSpec tagged = record.target_spec;
  tagged.metadata[kJobKey] = record.job_id;
  return create_by_staging(cluster, record, tagged);
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

}  // namespace

Result<Phase> prepare(Swap& swap) {
  const JobRecord& record = swap.record;
  swap.show_progress({"preparing the target", 0, 0, 0, -1});
  auto cluster = swap.target_cluster();
  if (!cluster) return cluster.error();
  if (record.create_target) {
    POOLSHIFT_TRY(create_target(record, **cluster));
  } else {
    POOLSHIFT_TRY((*cluster)->set_metadata(record.target, kJobKey, record.job_id));
  }
  if (record.target_spec.size_bytes != record.source_size_bytes) {
    POOLSHIFT_TRY((*cluster)->resize_image(record.target, record.source_size_bytes));
  }
  POOLSHIFT_TRY(verify_target(record, **cluster));
  POOLSHIFT_TRY(swap.stop_if_cancelled());
  return Phase::copy;
}

}  // namespace poolshift
