// What libvirt and the cluster show, and what that means for a job in a given phase. The same look is taken after a
// crash, after libvirtd was away, and after a step failed: there is no second set of rules for recovery.
#pragma once

#include <cstdint>
#include <string>

#include "engine/job_record.h"
#include "engine/swap.h"

namespace poolshift {

// A client that died without closing an image keeps its watch for 30 s (osd_client_watch_timeout).
inline constexpr std::int64_t kWatcherPatienceMs = 45'000;

struct Facts {
  enum class Guest { absent, inactive, active };
  // hidden: offline, and the definition names the target while no image has that name yet: nobody can be on it.
  // nowhere: no such disk, or no such domain.
  enum class DiskOn { source, overlay, target, hidden, elsewhere, nowhere };
  enum class Copy { none, ours, ours_pivoting, foreign };

  Guest guest = Guest::absent;
  DiskOn disk_on = DiskOn::nowhere;  // by the live XML of an active domain, by the persistent XML of another
  Copy copy = Copy::none;
  bool copy_is_ready = false;  // <mirror ready='yes'>; says when to pivot, decides nothing here
  bool handover = false;       // the job's engine
  // The source is open in the very client instance that had it open when the pivot began; offline: no image ever had
  // the target's name.
  bool never_left_source = false;
  // Of a handover whose switch began: the target is our clone, never got data of its own, and nobody
  // has it open; offline also: no image ever had its name.
  bool target_untouched = false;

  bool operator==(const Facts&) const = default;
};

Result<Facts> observe(Swap& swap);
// Before a pivot, for the proof, should it fail, that the guest never left the source.
Status remember_who_has_the_source(Swap& swap);

struct Verdict {
  Phase next;
  GuestOn guest_on;
  const char* why;
};

// The recovery table (also in poolshift-journal(5)). Rows are tried from the top; `any` matches all. The overlay counts
// as the source: below it is the source, and what it may hold goes there. [M] mirror only, [H] handover only.
//
//   journal   guest     disk on    copy           then             because
//   prepare   any       source     none           undo             nothing was copied yet
//   prepare   absent    nowhere    none           undo             the domain is gone, the source has all its writes
//   prepare   any       any        any            held_unknown     somebody else works on this disk
//   copy      active    source     ours           copy             the copy is running: go on following it
//   copy      active    source     ours_pivoting  pivot            somebody asked libvirt to pivot
//   copy      active    source     none           undo             the copy ended without a pivot
//   copy      active    target     none           retire           somebody pivoted a finished copy
//   copy      inactive  source     none           undo             the guest stopped before the pivot
//   copy      inactive  target     none           retire           somebody pivoted a finished copy
//   copy      absent    nowhere    none           undo             the domain is gone, the source has all its writes
//   copy      any       any        any            held_unknown     somebody else works on this disk
//   pause     active    source     none, ours     undo             the guest was not switched
//   pause     active    overlay    none, ours     undo             the guest was not switched
//   pause     active    overlay    ours_pivoting  pivot            somebody asked libvirt to pivot
//   pause     inactive  source     none           undo             the guest stopped before the switch
//   pause     inactive  overlay    none           undo             the guest stopped before the switch
//   pause     inactive  hidden     none           undo             the domain could not be started
//   pause     absent    nowhere    none           undo             the domain is gone, the source has all its writes
//   pause     any       any        any            held_unknown     somebody else works on this disk
//   pivot     active    target     none           retire [M]       the guest is on the target
//   pivot     active    target     none           hydrate [H]      the guest is on the target
//   pivot     active    source     ours_pivoting  pivot            libvirt is switching now
//   pivot     active    overlay    ours_pivoting  pivot            libvirt is switching now
//   pivot     active    source     ours           copy [M]         the pivot did not happen, the copy goes on
//   pivot     active    overlay    ours           undo             the switch did not happen
//   pivot     active    source     none, never left   undo         the copy ended, the guest never left the source
//   pivot     active    overlay    none, never left   undo         the copy ended, the guest never left the source
//   pivot     inactive  target     none           retire [M]       libvirt recorded the pivot
//   pivot     inactive  target     none           hydrate [H]      libvirt recorded the pivot
//   pivot     inactive  hidden     none           undo             the domain could not be started
//   pivot     inactive  source     none, untouched    undo         the guest never wrote to the target
//   pivot     inactive  overlay    none, untouched    undo         the guest never wrote to the target
//   pivot     absent    nowhere    none, untouched    undo         the guest never wrote to the target
//   pivot     any       any        any            held_unknown     the guest may have written to either image
//   hydrate   any       target     none           hydrate          the guest is on the target
//   hydrate   absent    nowhere    none           hydrate          the domain is gone, the target has all its writes
//   hydrate   any       any        any            held_on_target   the domain no longer names the target
//   retire    any       target     none           retire           go on
//   retire    absent    nowhere    none           retire           the domain is gone, the target has all its writes
//   retire    any       any        any            held_on_target   the domain no longer names the target
//   undo      any       source     none, ours     undo             go on
//   undo      any       overlay    none, ours     undo             go on
//   undo      inactive  hidden     none           undo             go on
//   undo      absent    nowhere    none           undo             go on
//   undo      any       any        any            held_unknown     the disk is not on the source
Verdict decide(Phase phase, const Facts& facts);

}  // namespace poolshift
