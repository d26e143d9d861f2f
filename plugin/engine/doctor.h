// What is wrong with this node, as far as the library knows it: programs, folders, jobs and clusters. Changes nothing.
#pragma once

#include <string>
#include <vector>

#include "base/finding.h"
#include "engine/swap.h"
#include "journal/job_store.h"

namespace poolshift {

struct DoctorOptions {
  std::string state_dir;
  std::string overlay_dir;
  std::string guardian;  // program
  std::string ceph_conf;
  std::int64_t patience_ms = 0;  // for the clusters, together: those that are left then are not asked
};

// `jobs` are those whose journals can be read.
Findings look_at_node(Ports ports, const DoctorOptions& options, const std::vector<JobStore::Seen>& jobs);

// What these versions cannot do, each with what to do about it. A version that cannot be read is taken for a new one.
Findings lacking_features(const HypervisorVersions& versions, const std::string& librbd_version);

}  // namespace poolshift
