#include "flow/same_disk.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

namespace poolshift {

namespace {

Status compare(const JobRecord& record, const Disk& disk, const std::string& before, const char* which) {
  const auto advice = fmt::format(
      "The guest is on the target: compare with 'virsh dumpxml', correct the definition with 'virsh edit', then run "
      "'poolshift recover {}'.",
      record.job_id);
  if (!disk.unsupported_parts.empty()) {
    return Error{ErrorCode::failed,
                 fmt::format("after the switch disk '{}' of domain '{}' has {} in its {} XML", record.disk,
                             record.domain_name, fmt::join(disk.unsupported_parts, ", "), which),
                 advice};
  }
  if (before.empty() || disk.comparable_xml == before) return {};
  return Error{
      ErrorCode::failed,
      fmt::format("the switch changed more than the source of disk '{}' of domain '{}': its {} XML was {} and is {}",
                  record.disk, record.domain_name, which, before, disk.comparable_xml),
      advice};
}

}  // namespace

Status compare_disk(Swap& swap) {
  JobRecord& record = swap.record;
  if (record.disk_is_compared) return {};
  const auto domain = swap.ports.hypervisor.find_domain(record.domain_uuid);
  if (!domain && domain.error().code == ErrorCode::not_found) return {};
  if (!domain) return domain.error();
  // The live XML of a domain that was off when the swap began is made from its definition.
  const Disk* live = domain->disk(record.disk);
  if (live != nullptr && is_active(*domain) && !record.offline && live->image == record.target) {
    POOLSHIFT_TRY(compare(record, *live, record.disk_xml, "live"));
  }
  for (const auto& disk : domain->persistent_disks) {
    if (disk.target != record.disk || disk.image != record.target) continue;
    POOLSHIFT_TRY(compare(record, disk, record.persistent_disk_xml, "persistent"));
  }
  record.disk_is_compared = true;
  return {};
}

}  // namespace poolshift
