// Looks at everything that a swap needs and changes nothing. Each refusal is one sentence: what was found, where, and
// what to do about it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "engine/job_record.h"
#include "engine/swap.h"
#include "flow/request.h"

namespace poolshift {

// That opens images in RBD namespaces (docs/adr/0005-namespaces.md).
inline constexpr std::pair<int, int> kFirstLibvirtWithNamespaces{11, 6};

// The worst flag that the pool has for want of room, by Ceph's name; null: none.
const char* grave_flag(const Pool& pool);

struct ValidateOptions {
  std::string ceph_conf;    // overrides the cluster access in the domain's XML
  std::string overlay_dir;  // where a handover puts its overlay
  std::string guardian;     // program
};

struct Validation {
  std::vector<Check> checks;
  JobRecord plan;         // complete when nothing was refused
  DiskCounters counters;  // of the guest's disk, when it was looked at
  std::int64_t counters_ms = 0;

  bool refused() const;
  // The first refusal as an error.
  Error refusal() const;
};

// What is known of a job before anything was looked at.
JobRecord plan_for(const SwapRequest& request);

// Fails only when libvirt or the cluster could not be asked (`unreachable`); what they say ends up in the checks.
Result<Validation> validate(Ports ports, JobStore& store, const SwapRequest& request, const ValidateOptions& options);

}  // namespace poolshift
