#include "flow/recover.h"

#include <initializer_list>
#include <optional>

namespace poolshift {

namespace {

using Guest = Facts::Guest;
using DiskOn = Facts::DiskOn;
using Copy = Facts::Copy;

template <class T>
struct Any {
  std::optional<T> only;
  constexpr Any() = default;
  constexpr Any(T value) : only(value) {}  // NOLINT(google-explicit-constructor)
  constexpr bool matches(T value) const { return !only || *only == value; }
};

struct Row {
  Phase journal;
  Any<Guest> guest;
  Any<DiskOn> disk_on;
  Any<Copy> copy;
  bool only_if_never_left;
  Verdict verdict;
};

constexpr auto kAnyGuest = Any<Guest>();
constexpr auto kAnyDisk = Any<DiskOn>();
constexpr auto kAnyCopy = Any<Copy>();

constexpr Row kTable[] = {
    {Phase::prepare,
     kAnyGuest,
     DiskOn::source,
     Copy::none,
     false,
     {Phase::undo, GuestOn::source, "nothing was copied yet"}},
    {Phase::prepare,
     Guest::absent,
     DiskOn::nowhere,
     Copy::none,
     false,
     {Phase::undo, GuestOn::source, "the domain is gone, the source has all its writes"}},
    {Phase::prepare,
     kAnyGuest,
     kAnyDisk,
     kAnyCopy,
     false,
     {Phase::held_unknown, GuestOn::unknown, "somebody else works on this disk"}},

    {Phase::copy,
     Guest::active,
     DiskOn::source,
     Copy::ours,
     false,
     {Phase::copy, GuestOn::source, "the copy is running"}},
    {Phase::copy,
     Guest::active,
     DiskOn::source,
     Copy::ours_pivoting,
     false,
     {Phase::pivot, GuestOn::unknown, "somebody asked libvirt to pivot"}},
    {Phase::copy,
     Guest::active,
     DiskOn::source,
     Copy::none,
     false,
     {Phase::undo, GuestOn::source, "the copy ended without a pivot"}},
    {Phase::copy,
     Guest::active,
     DiskOn::target,
     Copy::none,
     false,
     {Phase::retire, GuestOn::target, "somebody pivoted a finished copy"}},
    {Phase::copy,
     Guest::inactive,
     DiskOn::source,
     Copy::none,
     false,
     {Phase::undo, GuestOn::source, "the guest stopped before the pivot"}},
    {Phase::copy,
     Guest::inactive,
     DiskOn::target,
     Copy::none,
     false,
     {Phase::retire, GuestOn::target, "somebody pivoted a finished copy"}},
    {Phase::copy,
     Guest::absent,
     DiskOn::nowhere,
     Copy::none,
     false,
     {Phase::undo, GuestOn::source, "the domain is gone, the source has all its writes"}},
    {Phase::copy,
     kAnyGuest,
     kAnyDisk,
     kAnyCopy,
     false,
     {Phase::held_unknown, GuestOn::unknown, "somebody else works on this disk"}},

    {Phase::pivot,
     Guest::active,
     DiskOn::target,
     Copy::none,
     false,
     {Phase::retire, GuestOn::target, "the guest is on the target"}},
    {Phase::pivot,
     Guest::active,
     DiskOn::source,
     Copy::ours_pivoting,
     false,
     {Phase::pivot, GuestOn::unknown, "libvirt is switching now"}},
    {Phase::pivot,
     Guest::active,
     DiskOn::source,
     Copy::ours,
     false,
     {Phase::copy, GuestOn::source, "the pivot did not happen, the copy goes on"}},
    {Phase::pivot,
     Guest::active,
     DiskOn::source,
     Copy::none,
     true,
     {Phase::undo, GuestOn::source, "the copy ended, the guest never left the source"}},
    {Phase::pivot,
     Guest::inactive,
     DiskOn::target,
     Copy::none,
     false,
     {Phase::retire, GuestOn::target, "libvirt recorded the pivot"}},
    {Phase::pivot,
     kAnyGuest,
     kAnyDisk,
     kAnyCopy,
     false,
     {Phase::held_unknown, GuestOn::unknown, "the guest may have written to either image"}},

    {Phase::retire,
     kAnyGuest,
     DiskOn::target,
     Copy::none,
     false,
     {Phase::retire, GuestOn::target, "the guest is on the target"}},
    {Phase::retire,
     Guest::absent,
     DiskOn::nowhere,
     Copy::none,
     false,
     {Phase::retire, GuestOn::target, "the domain is gone, the target has all its writes"}},
    {Phase::retire,
     kAnyGuest,
     kAnyDisk,
     kAnyCopy,
     false,
     {Phase::held_on_target, GuestOn::unknown, "the domain no longer names the target"}},

    {Phase::undo,
     kAnyGuest,
     DiskOn::source,
     Copy::none,
     false,
     {Phase::undo, GuestOn::source, "the guest is on the source"}},
    {Phase::undo,
     kAnyGuest,
     DiskOn::source,
     Copy::ours,
     false,
     {Phase::undo, GuestOn::source, "the guest is on the source"}},
    {Phase::undo,
     Guest::absent,
     DiskOn::nowhere,
     Copy::none,
     false,
     {Phase::undo, GuestOn::source, "the domain is gone, the source has all its writes"}},
    {Phase::undo,
     kAnyGuest,
     kAnyDisk,
     kAnyCopy,
     false,
     {Phase::held_unknown, GuestOn::unknown, "the disk is not on the source"}},
};

}  // namespace

Verdict decide(Phase phase, const Facts& facts) {
  for (const auto& row : kTable) {
    if (row.journal == phase && row.guest.matches(facts.guest) && row.disk_on.matches(facts.disk_on) &&
        row.copy.matches(facts.copy) && (!row.only_if_never_left || facts.never_left_source)) {
      return row.verdict;
    }
  }
  return {Phase::held_unknown, GuestOn::unknown, "the journal names a phase that has no rule"};
}

Result<Facts> observe(Swap& swap) {
  const JobRecord& record = swap.record;
  Facts facts;
  const auto domain = swap.ports.hypervisor.find_domain(record.domain_uuid);
  if (!domain) {
    if (domain.error().code == ErrorCode::not_found) return facts;
    return domain.error();
  }
  facts.guest = is_active(*domain) ? Guest::active : Guest::inactive;
  const Disk* disk = domain->disk(record.disk);
  if (disk == nullptr) return facts;
  facts.disk_on = DiskOn::elsewhere;
  if (disk->image == record.source) facts.disk_on = DiskOn::source;
  if (disk->image == record.target) facts.disk_on = DiskOn::target;
  if (disk->other_block_job) facts.copy = Copy::foreign;
  if (disk->mirror) {
    facts.copy = disk->mirror->image == record.target ? Copy::ours : Copy::foreign;
    if (facts.copy == Copy::ours && disk->mirror->pivoting) facts.copy = Copy::ours_pivoting;
    facts.copy_is_ready = disk->mirror->ready;
  }
  const bool pivot_began = record.phase == Phase::pivot || record.resume_phase == Phase::pivot;
  if (pivot_began && facts.disk_on == DiskOn::source && facts.copy == Copy::none) {
    auto cluster = swap.source_cluster();
    if (!cluster) return cluster.error();
    auto source = (*cluster)->image(record.source);
    if (!source && source.error().code == ErrorCode::unreachable) return source.error();
    facts.never_left_source =
        source && !record.source_watcher.empty() && source->watchers == std::vector<std::string>{record.source_watcher};
  }
  return facts;
}

}  // namespace poolshift
