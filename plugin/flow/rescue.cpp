#include "flow/rescue.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>

#include "flow/staging.h"

namespace poolshift {

namespace {

Error refused(std::string found, std::string advice) {
  return {ErrorCode::refused, std::move(found), std::move(advice)};
}

// Empty when there is none.
Result<std::optional<Image>> find_image(Cluster& cluster, const ImageName& name) {
  auto image = cluster.image(name);
  if (image) return std::optional(std::move(*image));
  if (image.error().code == ErrorCode::not_found) return std::optional<Image>();
  return image.error();
}

Status exactly_one_client(const ImageName& name, const std::vector<std::string>& watchers) {
  if (watchers.size() == 1) return {};
  return refused(
      fmt::format("image {} is open in {} clients: {}", to_string(name), watchers.size(), fmt::join(watchers, ", ")),
      "Exactly the guest's QEMU may have it open: find out who the others are.");
}

// Where the image is that QEMU has open: under its name, or in the trash.
Status find_source(Cluster& cluster, Rescue& rescue) {
  const auto named = find_image(cluster, rescue.source);
  if (!named) return named.error();
  const auto in_trash = cluster.trash_of(rescue.source);
  if (!in_trash) return in_trash.error();
  std::vector<TrashedImage> open;
  std::copy_if(in_trash->begin(), in_trash->end(), std::back_inserter(open),
               [](const auto& entry) { return !entry.watchers.empty(); });
  const auto name = to_string(rescue.source);
  if (*named && open.empty()) return exactly_one_client(rescue.source, (*named)->watchers);
  if (*named) {
    return refused(fmt::format("the guest's image {} is in the trash as '{}', and another image has its name now", name,
                               open.front().id),
                   "Rename that other image with 'rbd rename', then try again.");
  }
  if (open.size() != 1) {
    return refused(
        fmt::format("{} of the {} images in the trash that were {} are open", open.size(), in_trash->size(), name),
        fmt::format("Look at 'rbd trash ls --all {}' for the one that the guest uses.", rescue.source.pool));
  }
  POOLSHIFT_TRY(exactly_one_client(rescue.source, open.front().watchers));
  rescue.trash_id = open.front().id;
  return {};
}

Status look_at_target(Cluster& cluster, Rescue& rescue) {
  const auto name = to_string(rescue.target);
  const auto aside = stale_name(rescue.target);
  const auto target = find_image(cluster, rescue.target);
  if (!target) return target.error();
  const auto stale = find_image(cluster, aside);
  if (!stale) return stale.error();
  rescue.create_target = !*target;
  if (!*target && !*stale) {
    return refused(fmt::format("target {} does not exist", name), "Give the image that the volume's owner names.");
  }
  if (!*target) return {};
  if (!(*target)->watchers.empty()) {
    return refused(fmt::format("target {} is open in {}", name, fmt::join((*target)->watchers, ", ")),
                   "Nobody may use it: find out who does.");
  }
  const auto used = cluster.usage(rescue.target);
  if (!used) return used.error();
  if (used->bytes == 0 && (*target)->parent.empty()) return {};
  if (!(*target)->snapshots.empty()) {
    return refused(fmt::format("target {} has snapshots", name),
                   "Somebody has worked with it: decide by hand which image is right.");
  }
  const bool is_half_renamed = *stale && (*stale)->id == (*target)->id;  // make_ready() goes on with it
  if (*stale && !is_half_renamed) {
    return refused(fmt::format("both target {} and {} hold data", name, to_string(aside)),
                   "A rescue has been here before: find out what became of it, then move one of them away.");
  }
  rescue.set_aside = true;
  rescue.create_target = true;
  return {};
}

ImageName staged_name(const ImageName& target) {
  return {target.pool, target.rbd_namespace, "poolshift.rescue." + target.image};
}

Status create_like(Cluster& cluster, const ImageName& model, const ImageName& name, std::uint64_t least_bytes) {
  const auto image = cluster.image(model);
  if (!image) return image.error();
  auto spec = image->spec;
  spec.size_bytes = std::max(spec.size_bytes, least_bytes);
  return create_by_staging(cluster, staged_name(name), name, spec);
}

}  // namespace

ImageName stale_name(const ImageName& target) {
  return {target.pool, target.rbd_namespace, "poolshift.stale." + target.image};
}

Result<Rescue> plan_rescue(Ports ports, JobStore& store, const SwapRequest& request, const std::string& ceph_conf) {
  const auto domain = ports.hypervisor.find_domain(request.domain);
  if (!domain) return domain.error();
  const Disk* disk = domain->disk(request.disk);
  if (!is_active(*domain)) {
    return refused(fmt::format("domain '{}' is shut off", domain->name),
                   "Nothing writes to the image: 'rbd trash restore' brings it back.");
  }
  if (disk == nullptr || !disk->image) {
    return refused(fmt::format("domain '{}' has no RBD disk '{}'", domain->name, request.disk),
                   "'virsh domblklist' shows its disks.");
  }
  Rescue rescue;
  rescue.source = *disk->image;
  rescue.target = request.target;
  rescue.source_access = disk->access;
  if (!ceph_conf.empty()) rescue.source_access.conf_path = ceph_conf;
  rescue.target_access = request.target_access.value_or(rescue.source_access);
  if (request.source && *request.source != rescue.source) {
    return refused(fmt::format("disk '{}' of domain '{}' is {}, the request names {}", request.disk, domain->name,
                               to_string(rescue.source), to_string(*request.source)),
                   "Name the image that the disk uses, or none.");
  }
  if (rescue.source == rescue.target) {
    return refused(fmt::format("domain '{}' names {} already", domain->name, to_string(rescue.target)),
                   "If it is in the trash, 'rbd trash restore' alone brings it back.");
  }
  POOLSHIFT_TRY(store.check_free(domain->uuid, request.disk, rescue.source, rescue.target));
  auto source_cluster = connect_cluster(ports, rescue.source_access);
  if (!source_cluster) return source_cluster.error();
  auto target_cluster = connect_cluster(ports, rescue.target_access);
  if (!target_cluster) return target_cluster.error();
  POOLSHIFT_TRY(find_source(**source_cluster, rescue));
  POOLSHIFT_TRY(look_at_target(**target_cluster, rescue));
  return rescue;
}

Status make_ready(Ports ports, const Rescue& rescue) {
  auto source_cluster = connect_cluster(ports, rescue.source_access);
  if (!source_cluster) return source_cluster.error();
  if (!rescue.trash_id.empty()) {
    POOLSHIFT_TRY((*source_cluster)->restore_from_trash(rescue.source, rescue.trash_id));
  }
  const auto source = (*source_cluster)->image(rescue.source);
  if (!source) return source.error();
  auto target_cluster = connect_cluster(ports, rescue.target_access);
  if (!target_cluster) return target_cluster.error();
  POOLSHIFT_TRY(finish_rename(**target_cluster, staged_name(rescue.target), rescue.target));
  const auto aside = stale_name(rescue.target);
  if (rescue.set_aside) POOLSHIFT_TRY((*target_cluster)->rename_image(rescue.target, aside));
  if (!rescue.create_target) return {};
  return create_like(**target_cluster, aside, rescue.target, source->spec.size_bytes);
}

}  // namespace poolshift
