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

Status finish_rename(Cluster& cluster, const ImageName& from, const ImageName& to) {
  const auto by_from = cluster.image(from);
  const auto by_to = cluster.image(to);
  for (const auto* image : {&by_from, &by_to}) {
    if (!*image && image->error().code == ErrorCode::not_found) return {};
    if (!*image) return image->error();
  }
  return by_from->id == by_to->id ? cluster.rename_image(from, to) : Status();
}

Status finish_move_to_trash(Cluster& cluster, const ImageName& name) {
  const auto moved = cluster.move_to_trash(name);
  if (!moved && moved.error().code == ErrorCode::not_found) return {};
  return moved;
}

}  // namespace poolshift
