// What the steps of a handover have in common: names, the guardian's order, and the way back.
#pragma once

#include "engine/swap.h"
#include "flow/guard.h"
#include "flow/recover.h"

namespace poolshift {

// Of the source, as long as the target is its clone.
std::string snapshot_name(const JobRecord& record);
// Image::parent of a target that is the clone of this job.
std::string parent_of_our_clone(const JobRecord& record);

// Of an offline job: the clone until it has the target's name.
ImageName hidden_name(const JobRecord& record);
// The clone came with the source's metadata. It gets its own, and our tag.
Status tag_clone(const JobRecord& record, Cluster& cluster, const ImageName& clone);

// Notes, before it acts, that the disk is going to be switched.
Status begin_switch(Swap& swap);

// What is seen, when the guest is on the source and may stay there; else why the swap cannot be undone.
Result<Facts> look_before_undo(Swap& swap);
// Of an offline job: the definition names the source again, unless the guest could be on the target.
Status give_definition_back(Swap& swap);

GuardOrder guard_order(const Swap& swap);

// A definition that names the overlay would show the guest its old data at the next start: it names `image` afterwards.
Status point_definition_at(Swap& swap, const ImageName& image, const ClusterAccess& access);

// The guest runs on what the disk is on now, without an overlay; the pause is over. Fails when the overlay cannot be
// taken off in `patience_ms`; the guest runs even then.
Status bring_guest_back(Swap& swap, std::int64_t patience_ms);

// The overlay file is removed. `failed` when it holds data of the guest, unless that is `merged` elsewhere.
Status drop_overlay(Swap& swap, bool merged);

}  // namespace poolshift
