// Engine `handover`: while the guest is suspended the source is frozen as a snapshot, the target becomes its clone, and
// the disk is made ready to be switched to it. How long this takes does not depend on the size of the disk.
//
// The overlay is there because libvirt copies only the topmost image of a disk (SHALLOW) when there is one below it. It
// never gets a write as long as the guest is suspended; whoever brings the guest back (guard.h) takes it off first.
#include <fmt/core.h>

#include "flow/flow.h"
#include "flow/handover.h"

namespace poolshift {

namespace {

constexpr std::int64_t kLookEveryMs = 5;

Error not_as_expected(const JobRecord& record, const char* what) {
  return {ErrorCode::failed,
          fmt::format("disk '{}' of domain '{}' {} while it was made ready", record.disk, record.domain_name, what),
          "Find out who else works on this domain; then start the swap again."};
}

// What must be true before the guest is suspended, and who the one client is that has the source open.
Status look_before(Swap& swap) {
  JobRecord& record = swap.record;
  const auto facts = observe(swap);
  if (!facts) return facts.error();
  if (facts->guest != Facts::Guest::active || facts->disk_on != Facts::DiskOn::source ||
      facts->copy != Facts::Copy::none) {
    return not_as_expected(record, "was changed by somebody else");
  }
  const auto domain = swap.ports.hypervisor.find_domain(record.domain_uuid);
  if (!domain) return domain.error();
  record.resume_guest = domain->state == DomainState::running;
  return remember_who_has_the_source(swap);
}

Status wait_until_ready(Swap& swap) {
  for (;;) {
    const auto facts = observe(swap);
    if (!facts) return facts.error();
    POOLSHIFT_TRY(swap.still_ours());  // it ends the copy
    if (facts->copy == Facts::Copy::none) return not_as_expected(swap.record, "lost its copy");
    if (facts->copy_is_ready) return {};
    POOLSHIFT_TRY(swap.wait_ms(kLookEveryMs));
  }
}

}  // namespace

Result<Phase> pause(Swap& swap) {
  JobRecord& record = swap.record;
  auto& hypervisor = swap.ports.hypervisor;
  POOLSHIFT_TRY(swap.stop_if_cancelled());
  POOLSHIFT_TRY(swap.take_pause_lock());
  auto source_cluster = swap.source_cluster();
  if (!source_cluster) return source_cluster.error();
  auto target_cluster = swap.target_cluster();
  if (!target_cluster) return target_cluster.error();
  POOLSHIFT_TRY(look_before(swap));
  POOLSHIFT_TRY(begin_switch(swap));
  POOLSHIFT_TRY(swap.begin_pause(guard_order(swap)));
  POOLSHIFT_TRY(hypervisor.suspend(record.domain_uuid));
  const auto written_before = hypervisor.disk_counters(record.domain_uuid, record.disk);
  if (!written_before) return written_before.error();
  swap.counters_at_pause = *written_before;

  POOLSHIFT_TRY(swap.still_ours());
  const auto snapshot_began_ms = swap.ports.system.monotonic_ms();
  POOLSHIFT_TRY((*source_cluster)->create_snapshot(record.source, snapshot_name(record)));
  record.seconds.snapshot = swap.seconds_since(snapshot_began_ms);
  POOLSHIFT_TRY(swap.still_ours());
  POOLSHIFT_TRY(
      (*target_cluster)->clone_image(record.source, snapshot_name(record), record.target, record.target_spec));
  POOLSHIFT_TRY(swap.still_ours());
  POOLSHIFT_TRY(hypervisor.insert_overlay(record.domain_uuid, record.disk, record.overlay_path));
  POOLSHIFT_TRY(swap.still_ours());
  MirrorOptions copy;
  copy.target = record.target;
  copy.access = record.target_access;
  copy.shallow = true;
  POOLSHIFT_TRY(hypervisor.start_mirror(record.domain_uuid, record.disk, copy));
  POOLSHIFT_TRY(wait_until_ready(swap));

  // From here on a write would be merged by the copy. One that came before it, because somebody let the guest run,
  // would be missing on the target.
  const auto written_since = hypervisor.disk_counters(record.domain_uuid, record.disk);
  if (!written_since) return written_since.error();
  POOLSHIFT_TRY(swap.still_ours());
  if (written_since->write_requests != written_before->write_requests ||
      written_since->written_bytes != written_before->written_bytes) {
    return not_as_expected(record, "was written to");
  }
  return Phase::pivot;
}

}  // namespace poolshift
