#include "flow/recover.h"

#include <initializer_list>
#include <optional>

#include "flow/handover.h"
#include "flow/tag.h"

namespace poolshift {

namespace {

using Guest = Facts::Guest;
using DiskOn = Facts::DiskOn;
using Copy = Facts::Copy;

constexpr std::int64_t kLookEveryMs = 100;
constexpr std::int64_t kStartPatienceMs = 60'000;

template <class T>
struct Any {
  std::optional<T> only;
  constexpr Any() = default;
  constexpr Any(T value) : only(value) {}  // NOLINT(google-explicit-constructor)
  constexpr bool matches(T value) const { return !only || *only == value; }
};

enum class Only { always, mirror, handover, never_left, untouched };

struct Row {
  Phase journal;
  Any<Guest> guest;
  Any<DiskOn> disk_on;
  Any<Copy> copy;
  Only only;
  Verdict verdict;
};

constexpr auto kAnyGuest = Any<Guest>();
constexpr auto kAnyDisk = Any<DiskOn>();
constexpr auto kAnyCopy = Any<Copy>();

// clang-format off
constexpr Row kTable[] = {
    {Phase::prepare, kAnyGuest, DiskOn::source, Copy::none, Only::always, {Phase::undo, GuestOn::source, "nothing was copied yet"}},
    {Phase::prepare, Guest::absent, DiskOn::nowhere, Copy::none, Only::always, {Phase::undo, GuestOn::source, "the domain is gone, the source has all its writes"}},
    {Phase::prepare, kAnyGuest, kAnyDisk, kAnyCopy, Only::always, {Phase::held_unknown, GuestOn::unknown, "somebody else works on this disk"}},
    {Phase::copy, Guest::active, DiskOn::source, Copy::ours, Only::always, {Phase::copy, GuestOn::source, "the copy is running"}},
    {Phase::copy, Guest::active, DiskOn::source, Copy::ours_pivoting, Only::always, {Phase::pivot, GuestOn::unknown, "somebody asked libvirt to pivot"}},
    {Phase::copy, Guest::active, DiskOn::source, Copy::none, Only::always, {Phase::undo, GuestOn::source, "the copy ended without a pivot"}},
    {Phase::copy, Guest::active, DiskOn::target, Copy::none, Only::always, {Phase::retire, GuestOn::target, "somebody pivoted a finished copy"}},
    {Phase::copy, Guest::inactive, DiskOn::source, Copy::none, Only::always, {Phase::undo, GuestOn::source, "the guest stopped before the pivot"}},
    {Phase::copy, Guest::inactive, DiskOn::target, Copy::none, Only::always, {Phase::retire, GuestOn::target, "somebody pivoted a finished copy"}},
    {Phase::copy, Guest::absent, DiskOn::nowhere, Copy::none, Only::always, {Phase::undo, GuestOn::source, "the domain is gone, the source has all its writes"}},
    {Phase::copy, kAnyGuest, kAnyDisk, kAnyCopy, Only::always, {Phase::held_unknown, GuestOn::unknown, "somebody else works on this disk"}},
    {Phase::pause, Guest::active, DiskOn::source, Copy::none, Only::always, {Phase::undo, GuestOn::source, "the guest was not switched"}},
    {Phase::pause, Guest::active, DiskOn::source, Copy::ours, Only::always, {Phase::undo, GuestOn::source, "the guest was not switched"}},
    {Phase::pause, Guest::active, DiskOn::overlay, Copy::none, Only::always, {Phase::undo, GuestOn::source, "the guest was not switched"}},
    {Phase::pause, Guest::active, DiskOn::overlay, Copy::ours, Only::always, {Phase::undo, GuestOn::source, "the guest was not switched"}},
    {Phase::pause, Guest::active, DiskOn::overlay, Copy::ours_pivoting, Only::always, {Phase::pivot, GuestOn::unknown, "somebody asked libvirt to pivot"}},
    {Phase::pause, Guest::inactive, DiskOn::source, Copy::none, Only::always, {Phase::undo, GuestOn::source, "the guest stopped before the switch"}},
    {Phase::pause, Guest::inactive, DiskOn::overlay, Copy::none, Only::always, {Phase::undo, GuestOn::source, "the guest stopped before the switch"}},
    {Phase::pause, Guest::inactive, DiskOn::hidden, Copy::none, Only::always, {Phase::undo, GuestOn::source, "the domain could not be started"}},
    {Phase::pause, Guest::absent, DiskOn::nowhere, Copy::none, Only::always, {Phase::undo, GuestOn::source, "the domain is gone, the source has all its writes"}},
    {Phase::pause, kAnyGuest, kAnyDisk, kAnyCopy, Only::always, {Phase::held_unknown, GuestOn::unknown, "somebody else works on this disk"}},
    {Phase::pivot, Guest::active, DiskOn::target, Copy::none, Only::mirror, {Phase::retire, GuestOn::target, "the guest is on the target"}},
    {Phase::pivot, Guest::active, DiskOn::target, Copy::none, Only::handover, {Phase::hydrate, GuestOn::target, "the guest is on the target"}},
    {Phase::pivot, Guest::active, DiskOn::source, Copy::ours_pivoting, Only::always, {Phase::pivot, GuestOn::unknown, "libvirt is switching now"}},
    {Phase::pivot, Guest::active, DiskOn::overlay, Copy::ours_pivoting, Only::always, {Phase::pivot, GuestOn::unknown, "libvirt is switching now"}},
    {Phase::pivot, Guest::active, DiskOn::source, Copy::ours, Only::mirror, {Phase::copy, GuestOn::source, "the pivot did not happen, the copy goes on"}},
    {Phase::pivot, Guest::active, DiskOn::overlay, Copy::ours, Only::always, {Phase::undo, GuestOn::source, "the switch did not happen"}},
    {Phase::pivot, Guest::active, DiskOn::source, Copy::none, Only::never_left, {Phase::undo, GuestOn::source, "the copy ended, the guest never left the source"}},
    {Phase::pivot, Guest::active, DiskOn::overlay, Copy::none, Only::never_left, {Phase::undo, GuestOn::source, "the copy ended, the guest never left the source"}},
    {Phase::pivot, Guest::inactive, DiskOn::target, Copy::none, Only::mirror, {Phase::retire, GuestOn::target, "libvirt recorded the pivot"}},
    {Phase::pivot, Guest::inactive, DiskOn::target, Copy::none, Only::handover, {Phase::hydrate, GuestOn::target, "libvirt recorded the pivot"}},
    {Phase::pivot, Guest::inactive, DiskOn::hidden, Copy::none, Only::always, {Phase::undo, GuestOn::source, "the domain could not be started"}},
    {Phase::pivot, Guest::inactive, DiskOn::source, Copy::none, Only::untouched, {Phase::undo, GuestOn::source, "the guest never wrote to the target"}},
    {Phase::pivot, Guest::inactive, DiskOn::overlay, Copy::none, Only::untouched, {Phase::undo, GuestOn::source, "the guest never wrote to the target"}},
    {Phase::pivot, Guest::absent, DiskOn::nowhere, Copy::none, Only::untouched, {Phase::undo, GuestOn::source, "the guest never wrote to the target"}},
    {Phase::pivot, kAnyGuest, kAnyDisk, kAnyCopy, Only::always, {Phase::held_unknown, GuestOn::unknown, "the guest may have written to either image"}},
    {Phase::hydrate, kAnyGuest, DiskOn::target, Copy::none, Only::always, {Phase::hydrate, GuestOn::target, "the guest is on the target"}},
    {Phase::hydrate, Guest::absent, DiskOn::nowhere, Copy::none, Only::always, {Phase::hydrate, GuestOn::target, "the domain is gone, the target has all its writes"}},
    {Phase::hydrate, kAnyGuest, kAnyDisk, kAnyCopy, Only::always, {Phase::held_on_target, GuestOn::unknown, "the domain no longer names the target"}},
    {Phase::retire, kAnyGuest, DiskOn::target, Copy::none, Only::always, {Phase::retire, GuestOn::target, "the guest is on the target"}},
    {Phase::retire, Guest::absent, DiskOn::nowhere, Copy::none, Only::always, {Phase::retire, GuestOn::target, "the domain is gone, the target has all its writes"}},
    {Phase::retire, kAnyGuest, kAnyDisk, kAnyCopy, Only::always, {Phase::held_on_target, GuestOn::unknown, "the domain no longer names the target"}},
    {Phase::undo, kAnyGuest, DiskOn::source, Copy::none, Only::always, {Phase::undo, GuestOn::source, "the guest is on the source"}},
    {Phase::undo, kAnyGuest, DiskOn::source, Copy::ours, Only::always, {Phase::undo, GuestOn::source, "the guest is on the source"}},
    {Phase::undo, kAnyGuest, DiskOn::overlay, Copy::none, Only::always, {Phase::undo, GuestOn::source, "the guest is on the source"}},
    {Phase::undo, kAnyGuest, DiskOn::overlay, Copy::ours, Only::always, {Phase::undo, GuestOn::source, "the guest is on the source"}},
    {Phase::undo, Guest::inactive, DiskOn::hidden, Copy::none, Only::always, {Phase::undo, GuestOn::source, "the guest is on the source"}},
    {Phase::undo, Guest::absent, DiskOn::nowhere, Copy::none, Only::always, {Phase::undo, GuestOn::source, "the domain is gone, the source has all its writes"}},
    {Phase::undo, kAnyGuest, kAnyDisk, kAnyCopy, Only::always, {Phase::held_unknown, GuestOn::unknown, "the disk is not on the source"}},
};
// clang-format on

bool holds(Only only, const Facts& facts) {
  switch (only) {
    case Only::always: return true;
    case Only::mirror: return !facts.handover;
    case Only::handover: return facts.handover;
    case Only::never_left: return facts.never_left_source;
    case Only::untouched: return facts.target_untouched;
  }
  return false;
}

Result<Facts> look_at_domain(Swap& swap) {
  const JobRecord& record = swap.record;
  Facts facts;
  facts.handover = record.engine == kHandover;
  const auto domain = swap.ports.hypervisor.find_domain(record.domain_uuid);
  if (!domain && domain.error().code == ErrorCode::not_found) return facts;
  if (!domain) return domain.error();
  facts.guest = is_active(*domain) ? Guest::active : Guest::inactive;
  const Disk* disk = domain->disk(record.disk);
  if (disk == nullptr) return facts;
  facts.disk_on = DiskOn::elsewhere;
  if (disk->image == record.source) facts.disk_on = DiskOn::source;
  if (disk->image == record.target) facts.disk_on = DiskOn::target;
  if (!record.overlay_path.empty() && disk->file_path == record.overlay_path) facts.disk_on = DiskOn::overlay;
  if (disk->other_block_job) facts.copy = Copy::foreign;
  if (disk->mirror) {
    facts.copy = disk->mirror->image == record.target ? Copy::ours : Copy::foreign;
    if (facts.copy == Copy::ours && disk->mirror->pivoting) facts.copy = Copy::ours_pivoting;
    facts.copy_is_ready = disk->mirror->ready;
  }
  return facts;
}

// Of an offline job before its target gets its data: whose name the target's is says whether the guest can be on it.
enum class Name { nobodys, ours, somebodys };

Result<Name> name_of_target(Swap& swap) {
  auto cluster = swap.target_cluster();
  if (!cluster) return cluster.error();
  const auto target = (*cluster)->image(swap.record.target);
  if (!target && target.error().code == ErrorCode::not_found) return Name::nobodys;
  if (!target) return target.error();
  return job_of(*target) == swap.record.job_id ? Name::ours : Name::somebodys;
}

Result<bool> guest_never_left(Swap& swap) {
  auto cluster = swap.source_cluster();
  if (!cluster) return cluster.error();
  const auto source = (*cluster)->image(swap.record.source);
  if (!source && source.error().code == ErrorCode::unreachable) return source.error();
  return source && !swap.record.source_watcher.empty() &&
         source->watchers == std::vector<std::string>{swap.record.source_watcher};
}

// A client that has the target open for longer than a dead one could lives: libvirt may have lost a domain whose QEMU
// is on the target (docs/adr/0007-handover.md).
Result<bool> target_is_untouched(Swap& swap) {
  auto cluster = swap.target_cluster();
  if (!cluster) return cluster.error();
  const auto deadline_ms = swap.ports.system.monotonic_ms() + kWatcherPatienceMs;
  for (;;) {
    const auto target = (*cluster)->image(swap.record.target);
    if (!target && target.error().code == ErrorCode::unreachable) return target.error();
    if (!target || target->parent != parent_of_our_clone(swap.record)) return false;
    if (target->watchers.empty()) break;
    if (swap.ports.system.monotonic_ms() >= deadline_ms) return false;
    POOLSHIFT_TRY(swap.wait_ms(kLookEveryMs));
  }
  const auto has_data = (*cluster)->has_own_data(swap.record.target);
  if (!has_data) return has_data.error();
  return !*has_data;
}

// The phase that a held job is taken up in.
Phase phase_of(const JobRecord& record) { return is_held(record.phase) ? record.resume_phase : record.phase; }

// A domain that is being started on an image that is not there ends by itself: what it is then is what counts.
Result<Facts> observe_offline(Swap& swap) {
  const auto deadline_ms = swap.ports.system.monotonic_ms() + kStartPatienceMs;
  for (;;) {
    auto facts = look_at_domain(swap);
    if (!facts) return facts;
    const auto name = name_of_target(swap);
    if (!name) return name.error();
    facts->never_left_source = facts->target_untouched = *name == Name::nobodys;
    if (facts->disk_on != DiskOn::target || *name == Name::ours) return facts;
    facts->disk_on = *name == Name::nobodys ? DiskOn::hidden : DiskOn::elsewhere;
    const bool is_being_started = facts->guest == Guest::active && *name == Name::nobodys;
    if (!is_being_started || swap.ports.system.monotonic_ms() >= deadline_ms) return facts;
    POOLSHIFT_TRY(swap.wait_ms(kLookEveryMs));
  }
}

}  // namespace

Verdict decide(Phase phase, const Facts& facts) {
  for (const auto& row : kTable) {
    if (row.journal == phase && row.guest.matches(facts.guest) && row.disk_on.matches(facts.disk_on) &&
        row.copy.matches(facts.copy) && holds(row.only, facts)) {
      return row.verdict;
    }
  }
  return {Phase::held_unknown, GuestOn::unknown, "the journal names a phase that has no rule"};
}

Result<Facts> observe(Swap& swap) {
  const Phase phase = phase_of(swap.record);
  const bool target_has_a_name = phase == Phase::prepare || phase == Phase::hydrate || phase == Phase::retire;
  if (swap.record.offline && !target_has_a_name) return observe_offline(swap);
  auto facts = look_at_domain(swap);
  const bool pivot_began = swap.record.phase == Phase::pivot || swap.record.resume_phase == Phase::pivot;
  if (!facts || !pivot_began || facts->copy != Copy::none || facts->disk_on == DiskOn::target) return facts;
  if (facts->guest == Guest::active) {
    const auto never_left = guest_never_left(swap);
    if (!never_left) return never_left.error();
    facts->never_left_source = *never_left;
  } else if (facts->handover) {
    const auto untouched = target_is_untouched(swap);
    if (!untouched) return untouched.error();
    facts->target_untouched = *untouched;
  }
  return facts;
}

Status remember_who_has_the_source(Swap& swap) {
  auto cluster = swap.source_cluster();
  if (!cluster) return cluster.error();
  const auto source = (*cluster)->image(swap.record.source);
  if (!source) return source.error();
  swap.record.source_watcher = source->watchers.size() == 1 ? source->watchers.front() : "";
  return {};
}

}  // namespace poolshift
