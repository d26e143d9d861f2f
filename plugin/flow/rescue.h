// A guest whose image went to the trash under it writes on to it, while others name a copy that is out of date:
// Cinder's driver-assisted retype does that. Here everything is made ready for the swap that brings the guest home: its
// image gets its name back, the copy is set aside, and an empty image takes the copy's name. What is already so is left
// alone, so it may be run again after a crash.
#pragma once

#include <string>

#include "engine/swap.h"
#include "flow/request.h"
#include "journal/job_store.h"

namespace poolshift {

struct Rescue {
  ImageName source;      // the image that the guest writes to
  std::string trash_id;  // under which it is in the trash; empty: it is not there
  ImageName target;
  ClusterAccess source_access;
  ClusterAccess target_access;
  bool set_aside = false;      // the target holds data
  bool create_target = false;  // after that, or because an earlier run got no further
};

// The name under which the copy that is out of date is kept.
ImageName stale_name(const ImageName& target);

// Changes nothing. `refused` when it is not clear which image the guest writes to, or what the target is for.
Result<Rescue> plan_rescue(Ports ports, JobStore& store, const SwapRequest& request, const std::string& ceph_conf);
Status make_ready(Ports ports, const Rescue& rescue);

}  // namespace poolshift
