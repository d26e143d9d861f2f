// A handover of a domain that is shut off (docs/adr/0009-offline.md): nobody is to be suspended, but somebody may start
// the domain at any moment. So its definition names the target first, while no image has that name: who starts the
// domain then is refused by QEMU, and nothing is written anywhere. The source is frozen and the clone completed under a
// name of our own; that it gets the target's name is the switch.
//
//   definition    source ─► target ────────────────────────────────────►
//   a start now   source    refused                         the target
//   clone                     snapshot, poolshift.JOB.clone ─► target ──►
#include <fmt/core.h>
#include <fmt/ranges.h>

#include "flow/flow.h"
#include "flow/handover.h"
#include "flow/tag.h"

namespace poolshift {

namespace {

Error not_as_expected(const JobRecord& record, std::string what,
                      std::string advice = "Find out who else works on this domain; then start the swap again.") {
  return {ErrorCode::failed,
          fmt::format("disk '{}' of domain '{}' was to be moved while it is shut off, but {}", record.disk,
                      record.domain_name, what),
          std::move(advice)};
}

Error was_started(const JobRecord& record) {
  return not_as_expected(record, "the domain was started",
                         "It has the source; start the swap again, a running guest is moved too.");
}

// No client has the source open, and the domain cannot go on from a state in which it had.
Status nobody_has_the_source(Swap& swap) {
  const JobRecord& record = swap.record;
  const auto domain = swap.ports.hypervisor.find_domain(record.domain_uuid);
  if (!domain) return domain.error();
  if (domain->has_saved_state) return not_as_expected(record, "it has a saved state that names the source");
  auto cluster = swap.source_cluster();
  if (!cluster) return cluster.error();
  const auto source = (*cluster)->image(record.source);
  if (!source) return source.error();
  if (source->watchers.empty()) return {};
  return not_as_expected(
      record, fmt::format("source {} is open in {}", to_string(record.source), fmt::join(source->watchers, ", ")));
}

Status look_before(Swap& swap) {
  const auto facts = observe(swap);
  if (!facts) return facts.error();
  if (facts->guest == Facts::Guest::active) return was_started(swap.record);
  if (facts->disk_on != Facts::DiskOn::source) return not_as_expected(swap.record, "it names another image now");
  if (!facts->target_untouched) {
    return not_as_expected(swap.record, fmt::format("somebody made an image {}", to_string(swap.record.target)),
                           "Find out whose it is, or choose another target.");
  }
  return nobody_has_the_source(swap);
}

// Whoever starts the domain from here on does not get the source. One that was started just before has it now.
Status expect_hidden(Swap& swap) {
  const auto facts = observe(swap);
  if (!facts) return facts.error();
  if (facts->guest == Facts::Guest::active) return was_started(swap.record);
  if (facts->disk_on != Facts::DiskOn::hidden) return not_as_expected(swap.record, "it names another image now");
  return nobody_has_the_source(swap);
}

}  // namespace

Result<Phase> pause_offline(Swap& swap) {
  JobRecord& record = swap.record;
  POOLSHIFT_TRY(swap.stop_if_cancelled());
  auto source_cluster = swap.source_cluster();
  if (!source_cluster) return source_cluster.error();
  auto target_cluster = swap.target_cluster();
  if (!target_cluster) return target_cluster.error();
  POOLSHIFT_TRY(look_before(swap));
  POOLSHIFT_TRY(begin_switch(swap));
  POOLSHIFT_TRY(
      swap.ports.hypervisor.redefine_disk(record.domain_uuid, record.disk, record.target, record.target_access));
  POOLSHIFT_TRY(expect_hidden(swap));
  const auto snapshot_began_ms = swap.ports.system.monotonic_ms();
  POOLSHIFT_TRY((*source_cluster)->create_snapshot(record.source, snapshot_name(record)));
  record.seconds.snapshot = swap.seconds_since(snapshot_began_ms);
  const ImageName clone = hidden_name(record);
  POOLSHIFT_TRY((*target_cluster)->clone_image(record.source, snapshot_name(record), clone, record.target_spec));
  POOLSHIFT_TRY(tag_clone(record, **target_cluster, clone));
  POOLSHIFT_TRY(swap.stop_if_cancelled());
  return Phase::pivot;
}

Result<Phase> pivot_offline(Swap& swap) {
  const JobRecord& record = swap.record;
  POOLSHIFT_TRY(expect_hidden(swap));
  auto cluster = swap.target_cluster();
  if (!cluster) return cluster.error();
  POOLSHIFT_TRY((*cluster)->rename_image(hidden_name(record), record.target));
  const auto facts = observe(swap);
  if (!facts) return facts.error();
  const Verdict verdict = decide(Phase::pivot, *facts);
  if (verdict.next == Phase::hydrate) return verdict.next;
  return not_as_expected(record, verdict.why);
}

Status give_definition_back(Swap& swap) {
  const JobRecord& record = swap.record;
  if (const auto facts = look_before_undo(swap); !facts) return facts.error();
  const auto domain = swap.ports.hypervisor.find_domain(record.domain_uuid);
  if (!domain && domain.error().code == ErrorCode::not_found) return {};
  if (!domain) return domain.error();
  for (const auto& disk : domain->persistent_disks) {
    if (disk.target != record.disk || disk.image != record.target) continue;
    POOLSHIFT_TRY(
        swap.ports.hypervisor.redefine_disk(record.domain_uuid, record.disk, record.source, record.source_access));
  }
  return {};
}

}  // namespace poolshift
