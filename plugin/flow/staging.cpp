#include "flow/staging.h"

#include <fmt/core.h>

namespace poolshift {

ImageName staging_name(const JobRecord& record) {
  return {record.target.pool, record.target.rbd_namespace, fmt::format("poolshift.{}", record.job_id)};
}

Status create_by_staging(Cluster& cluster, const ImageName& staged, const ImageName& name, const ImageSpec& spec) {
  const auto created = cluster.create_image(staged, spec);
  if (!created && created.error().code != ErrorCode::exists) return created;
  for (const auto& [key, value] : spec.metadata) POOLSHIFT_TRY(cluster.set_metadata(staged, key, value));
  return cluster.rename_image(staged, name);
}

Status finish_move_to_trash(Cluster& cluster, const ImageName& name) {
  const auto moved = cluster.move_to_trash(name);
  if (!moved && moved.error().code == ErrorCode::not_found) return {};
  return moved;
}

}  // namespace poolshift
