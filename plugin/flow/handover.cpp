#include "flow/handover.h"

#include <fmt/core.h>

#include "flow/recover.h"
#include "flow/staging.h"
#include "flow/tag.h"

namespace poolshift {

namespace {
constexpr std::int64_t kLookEveryMs = 100;
}

std::string snapshot_name(const JobRecord& record) { return fmt::format("poolshift.{}", record.job_id); }

std::string parent_of_our_clone(const JobRecord& record) {
  return fmt::format("{}@{}", to_string(record.source), snapshot_name(record));
}

ImageName hidden_name(const JobRecord& record) {
  auto name = staging_name(record);
  name.image += ".clone";
  return name;
}

Status tag_clone(const JobRecord& record, Cluster& cluster, const ImageName& clone) {
  const auto image = cluster.image(clone);
  if (!image) return image.error();
  if (job_of(*image) == record.job_id) return {};
  if (image->parent != parent_of_our_clone(record)) {
    return Error{ErrorCode::failed,
                 fmt::format("image {} is not the clone that job '{}' made", to_string(clone), record.job_id),
                 "Find out who changed it before anything else is done."};
  }
  for (const auto& [key, value] : image->spec.metadata) {
    if (!record.target_spec.metadata.contains(key)) POOLSHIFT_TRY(cluster.remove_metadata(clone, key));
  }
  for (const auto& [key, value] : record.target_spec.metadata) {
    POOLSHIFT_TRY(cluster.set_metadata(clone, key, value));
  }
  return cluster.set_metadata(clone, kJobKey, record.job_id);
}

Status begin_switch(Swap& swap) {
  swap.record.copy_started = true;
  POOLSHIFT_TRY(swap.save());
  swap.show_progress({"switching to the target", 0, 0, 0, -1});
  return {};
}

GuardOrder guard_order(const Swap& swap) {
  const JobRecord& record = swap.record;
  GuardOrder order;
  order.job_id = record.job_id;
  order.connect_uri = swap.guardian_setup.connect_uri;
  order.domain_uuid = record.domain_uuid;
  order.disk = record.disk;
  order.target = record.target;
  order.overlay_path = record.overlay_path;
  order.resume = record.resume_guest;
  order.max_pause_ms = record.max_pause_ms;
  order.log_file = swap.guardian_setup.log_file;
  order.log_journald = swap.guardian_setup.log_journald;
  return order;
}

Status point_definition_at(Swap& swap, const ImageName& image, const ClusterAccess& access) {
  const JobRecord& record = swap.record;
  const auto domain = swap.ports.hypervisor.find_domain(record.domain_uuid);
  if (!domain && domain.error().code == ErrorCode::not_found) return {};
  if (!domain) return domain.error();
  for (const auto& disk : domain->persistent_disks) {
    if (disk.target != record.disk || disk.file_path.empty() || disk.file_path != record.overlay_path) continue;
    POOLSHIFT_TRY(swap.ports.hypervisor.redefine_disk(record.domain_uuid, record.disk, image, access));
  }
  return {};
}

Status bring_guest_back(Swap& swap, std::int64_t patience_ms) {
  JobRecord& record = swap.record;
  const auto deadline_ms = swap.ports.system.monotonic_ms() + patience_ms;
  for (;;) {
    const auto before = observe(swap);
    if (!before) return before.error();
    POOLSHIFT_TRY(let_guest_run(swap.ports.hypervisor, swap.ports.system, guard_order(swap), record.max_pause_ms));
    const auto facts = observe(swap);
    if (!facts) return facts.error();
    swap.end_pause();
    const bool is_active = facts->guest == Facts::Guest::active;
    if (is_active && before->disk_on == Facts::DiskOn::overlay && facts->disk_on == Facts::DiskOn::source) {
      record.overlay_committed = true;
    }
    if (!is_active || facts->disk_on != Facts::DiskOn::overlay) return swap.save();
    if (swap.ports.system.monotonic_ms() >= deadline_ms) {
      return Error{ErrorCode::failed,
                   fmt::format("the overlay '{}' cannot be taken off disk '{}' of domain '{}'", record.overlay_path,
                               record.disk, record.domain_name),
                   fmt::format("The guest runs and its data is safe on source and overlay. Look at 'virsh domblkinfo' "
                               "and libvirt's log, then run 'poolshift recover {}'.",
                               record.job_id)};
    }
    POOLSHIFT_TRY(swap.wait_ms(kLookEveryMs));
  }
}

Status drop_overlay(Swap& swap, bool merged) {
  const JobRecord& record = swap.record;
  if (record.overlay_path.empty()) return {};
  const auto bytes = swap.ports.system.file_bytes(record.overlay_path);
  if (!bytes && bytes.error().code == ErrorCode::not_found) return {};
  if (!bytes) return bytes.error();
  const bool was_ready = record.overlay_bytes != 0;  // else it never was on the disk
  if (was_ready && *bytes != record.overlay_bytes && !merged) {
    return Error{
        ErrorCode::failed,
        fmt::format("the overlay '{}' holds writes of domain '{}' that are not on source {}", record.overlay_path,
                    record.domain_name, to_string(record.source)),
        fmt::format("Start the domain, which names the overlay, then run 'poolshift recover {}'.", record.job_id)};
  }
  return swap.ports.system.remove_file(record.overlay_path);
}

}  // namespace poolshift
