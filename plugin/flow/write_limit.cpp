#include "flow/write_limit.h"

namespace poolshift {

Status restore_write_limit(Swap& swap) {
  JobRecord& record = swap.record;
  if (!record.limit_to_restore) return {};
  const auto domain = swap.ports.hypervisor.find_domain(record.domain_uuid);
  if (!domain && domain.error().code != ErrorCode::not_found) return domain.error();
  if (domain && is_active(*domain) && domain->disk(record.disk) != nullptr) {
    POOLSHIFT_TRY(swap.ports.hypervisor.set_write_limit(record.domain_uuid, record.disk, *record.limit_to_restore));
  }
  record.limit_to_restore.reset();
  return swap.save();
}

}  // namespace poolshift
