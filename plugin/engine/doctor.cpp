#include "engine/doctor.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "base/version.h"
#include "engine/report.h"
#include "flow/validate.h"

namespace poolshift {

namespace {

using Version = std::pair<int, int>;

enum class Program { libvirt, qemu, librbd };

struct Feature {
  const char* name;
  Program program;
  Version first;
  Severity severity;  // when the program is older
  const char* lack;   // "QEMU 4.1 LACK"
  const char* advice;
};

// docs/adr/0003 and 0005 have the reasons for thin disks and namespaces.
constexpr Feature kFeatures[] = {
    {"feature_copy",
     Program::libvirt,
     {6, 0},
     Severity::fail,
     "cannot copy a running guest's disk to RBD",
     "Use libvirt 8.0 or later: neither engine works."},
    {"feature_copy",
     Program::qemu,
     {4, 2},
     Severity::fail,
     "cannot copy a running guest's disk to RBD",
     "Use QEMU 4.2 or later: neither engine works."},
    {"feature_copy",
     Program::libvirt,
     {8, 0},
     Severity::warn,
     "is older than what PoolShift supports",
     "Use libvirt 8.0 or later."},
    {"feature_hook",
     Program::libvirt,
     {6, 5},
     Severity::info,
     "does not look into '/etc/libvirt/hooks/qemu.d'",
     "Link poolshift-qemu-hook to '/etc/libvirt/hooks/qemu' instead, and start libvirtd again."},
    {"feature_handover",
     Program::librbd,
     {1, 16},
     Severity::info,
     "is older than any that the engine handover was tried with",
     "Use Ceph 16 or later on this node."},
    {"feature_namespace", Program::libvirt, kFirstLibvirtWithNamespaces, Severity::info,
     "cannot open images in RBD namespaces", "Targets in a namespace are refused."},
    {"feature_thin",
     Program::qemu,
     {10, 1},
     Severity::info,
     "writes a copy's zeroes where the disk does not discard",
     "Give disks discard='unmap'; else the engine mirror needs room for the whole disk until it is thin again."},
};

const char* title_of(Program program) {
  switch (program) {
    case Program::libvirt: return "libvirt";
    case Program::qemu: return "QEMU";
    case Program::librbd: return "librbd";
  }
  return "";
}

// What is older than `than` for certain.
bool is_older(const std::string& version, const Version& than) {
  Version found;
  return std::sscanf(version.c_str(), "%d.%d", &found.first, &found.second) == 2 && found < than;
}

std::string lasting(std::int64_t duration_ms) {
  const auto seconds = std::max<std::int64_t>(duration_ms / 1'000, 0);
  if (seconds < 120) return fmt::format("{} s", seconds);
  if (seconds < 120 * 60) return fmt::format("{} min", seconds / 60);
  if (seconds < 48 * 3'600) return fmt::format("{} h", seconds / 3'600);
  return fmt::format("{} days", seconds / 86'400);
}

// Health checks that tell that a pool cannot take data, or not for long. The others are the cluster's own business.
constexpr const char* kGraveChecks[] = {"PG_AVAILABILITY",  "OSD_FULL",         "OSD_BACKFILLFULL", "OSD_NEARFULL",
                                        "POOL_FULL",        "POOL_NEAR_FULL",   "POOL_NEARFULL",    "POOL_BACKFILLFULL",
                                        "PG_RECOVERY_FULL", "PG_BACKFILL_FULL", "SLOW_OPS"};

bool is_grave(const HealthCheck& check) {
  return check.severity == "HEALTH_ERR" ||
         std::find(std::begin(kGraveChecks), std::end(kGraveChecks), check.name) != std::end(kGraveChecks);
}

class Doctor {
 public:
  Doctor(Ports ports, const DoctorOptions& options) : ports_(ports), options_(options) {}

  Findings look(const std::vector<JobStore::Seen>& jobs) {
    const auto versions = ports_.hypervisor.versions();
    look_at_versions(versions);
    look_at_folders();
    look_at_programs();
    look_at_jobs(jobs);
    if (versions) look_at_clusters();
    return std::move(findings_);
  }

 private:
  void add(Finding each) { findings_.push_back(std::move(each)); }

  void look_at_versions(const Result<HypervisorVersions>& versions) {
    const auto librbd = ports_.storage.version();
    add(finding("librbd", Severity::pass, fmt::format("librbd {}", librbd)));
    if (!versions) {
      add(finding("libvirt", Severity::fail, versions.error()));
      return;
    }
    add(finding("libvirt", Severity::pass, fmt::format("libvirt {} at {}", versions->libvirt, versions->uri)));
    add(finding("qemu", Severity::pass, fmt::format("QEMU {}", versions->hypervisor)));
    for (auto& lack : lacking_features(*versions, librbd)) add(std::move(lack));
  }

  void look_at_folders() {
    bool safe = true;
    for (const auto& path : {options_.state_dir, options_.state_dir + "/jobs", options_.overlay_dir}) {
      const auto facts = ports_.system.file_facts(path);
      if (!facts && facts.error().code != ErrorCode::not_found) {
        add(finding("state_dir", Severity::fail, facts.error()));
        safe = false;
      } else if (facts && (facts->mode & 0002) != 0) {
        add(finding("state_dir", Severity::fail, fmt::format("every user may write to the folder '{}'", path),
                    fmt::format("Look what was put there, then run 'chmod o-w {}'.", path)));
        safe = false;
      }
    }
    if (safe) add(finding("state_dir", Severity::pass, fmt::format("the state folder is {}", options_.state_dir)));
    look_at_overlays();
  }

  void look_at_overlays() {
    const auto& path = options_.overlay_dir;
    if (const auto facts = ports_.system.file_facts(path); !facts) {
      if (facts.error().code != ErrorCode::not_found) return;  // said above
      add(finding("overlay_dir", Severity::info, fmt::format("the overlays' folder '{}' does not exist yet", path),
                  "The first handover makes it."));
      return;
    }
    // It exists, so this only looks.
    if (const auto passable = ports_.system.make_passable_folder(path); !passable) {
      add(finding("overlay_dir", Severity::fail, passable.error()));
      return;
    }
    add(finding("overlay_dir", Severity::pass, fmt::format("QEMU can reach the overlays in '{}'", path)));
  }

  void look_at_programs() {
    const auto& guardian = options_.guardian;
    const auto expected = fmt::format("poolshift-guardian {}", kVersion);
    const auto said = ports_.system.program_version(guardian);
    if (!said) {
      add(finding("guardian", Severity::fail,
                  fmt::format("no handover of a running guest is possible: {}", said.error().message),
                  "Install PoolShift whole, or name its guardian with --guardian."));
    } else if (*said != expected) {
      add(finding("guardian", Severity::warn,
                  fmt::format("'{}' is '{}', and the library is {}", guardian, *said, kVersion),
                  "Install the guardian and the library of one version."));
    } else {
      add(finding("guardian", Severity::pass, fmt::format("the guardian is {}", guardian)));
    }
    if (const auto qemu_img = ports_.system.program_version("qemu-img"); !qemu_img) {
      add(finding("qemu_img", Severity::fail,
                  fmt::format("no handover of a running guest is possible: {}", qemu_img.error().message),
                  "Install the package qemu-utils (Debian, Ubuntu) or qemu-img (Fedora, RHEL)."));
    } else {
      add(finding("qemu_img", Severity::pass, *qemu_img));
    }
  }

  void look_at_jobs(const std::vector<JobStore::Seen>& jobs) {
    const auto now_ms = ports_.system.wall_clock_ms();
    std::size_t ended = 0;
    std::size_t running = 0;
    for (const auto& job : jobs) {
      const auto& record = job.record;
      if (has_ended(record.phase)) {
        ++ended;
      } else if (job.running) {
        ++running;
      } else {
        add(open_job(record, now_ms - record.changed_wall_ms));
      }
    }
    add(finding("jobs", Severity::pass, fmt::format("{} jobs are running, {} have ended", running, ended)));
  }

  static Finding open_job(const JobRecord& record, std::int64_t duration_ms) {
    const auto report = report_of(record);
    const auto what = fmt::format("job '{}' (domain '{}', disk '{}')", record.job_id, record.domain_name, record.disk);
    const auto where =
        fmt::format("'{}' for {}, guest on {}", name_of(record.phase), lasting(duration_ms), name_of(record.guest_on));
    const auto message = is_held(record.phase)
                             ? fmt::format("{} is held in phase {}", what, where)
                             : fmt::format("the process of {} is gone; it is in phase {}", what, where);
    return finding("job", Severity::fail, message, report["error"]["advice"]);
  }

  struct Access {
    ClusterAccess access;
    std::set<std::string> domains;
    std::set<std::pair<std::string, std::string>> pools;  // with their namespaces
    std::vector<std::pair<const Domain*, const Disk*>> active_disks;
  };

  void look_at_clusters() {
    const auto domains = ports_.hypervisor.list_domains();
    if (!domains) {
      add(finding("libvirt", Severity::fail, domains.error()));
      return;
    }
    const auto accesses = accesses_of(*domains);
    const auto began_ms = ports_.system.monotonic_ms();
    for (const auto& access : accesses) {
      // Each may take its time until it is given up.
      if (ports_.system.monotonic_ms() - began_ms > options_.patience_ms) {
        add(finding("cluster", Severity::warn,
                    fmt::format("the cluster of domain '{}' was not asked: others took {} to answer",
                                *access.domains.begin(), lasting(options_.patience_ms)),
                    "Mend those first, then run this again, with a longer --patience if need be."));
        continue;
      }
      look_at(access);
    }
  }

  std::vector<Access> accesses_of(const std::vector<Domain>& domains) const {
    std::vector<Access> accesses;
    for (const auto& domain : domains) {
      for (const auto& disk : domain.disks) {
        if (!disk.image) continue;
        auto access = disk.access;
        if (!options_.ceph_conf.empty()) access.conf_path = options_.ceph_conf;
        auto known =
            std::find_if(accesses.begin(), accesses.end(), [&](const auto& each) { return each.access == access; });
        if (known == accesses.end()) known = accesses.insert(accesses.end(), Access{access, {}, {}, {}});
        known->domains.insert(domain.name);
        known->pools.emplace(disk.image->pool, disk.image->rbd_namespace);
        if (is_active(domain)) known->active_disks.emplace_back(&domain, &disk);
      }
    }
    return accesses;
  }

  void look_at(const Access& access) {
    const auto user = access.access.user.empty() ? "admin" : access.access.user;
    const auto cluster = connect_cluster(ports_, access.access);
    const auto fsid = cluster ? (*cluster)->fsid() : Result<std::string>(cluster.error());
    if (!fsid) {
      add(finding("cluster", Severity::fail,
                  fmt::format("domain '{}'{}: {}", *access.domains.begin(), and_others(access.domains.size() - 1),
                              fsid.error().message),
                  fsid.error().advice));
      return;
    }
    add(finding("cluster", Severity::pass, fmt::format("cluster {} answers user '{}'", *fsid, user)));
    bool all_well = true;
    for (const auto& [pool, rbd_namespace] : access.pools) {
      all_well = look_at_pool(**cluster, pool, rbd_namespace, user) && all_well;
    }
    if (all_well) {
      std::set<std::string> names;
      for (const auto& pool : access.pools) names.insert(pool.first);
      add(finding("pool", Severity::pass, fmt::format("user '{}' may write to {}", user, fmt::join(names, ", "))));
    }
    if (clusters_.insert(*fsid).second) look_at_health(**cluster);
    for (const auto& [domain, disk] : access.active_disks) look_for_trashed(**cluster, *domain, *disk);
  }

  static std::string and_others(std::size_t number) { return number == 0 ? "" : fmt::format(" and {} more", number); }

  bool look_at_pool(Cluster& cluster, const std::string& name, const std::string& rbd_namespace,
                    const std::string& user) {
    if (const auto rights = cluster.may_write(name, rbd_namespace); !rights) {
      add(finding("pool", Severity::fail, fmt::format("user '{}': {}", user, rights.error().message),
                  rights.error().advice));
      return false;
    }
    const auto pool = cluster.pool(name);
    if (!pool) {
      add(finding("pool", Severity::warn, pool.error()));
      return false;
    }
    if (const char* flag = grave_flag(*pool)) {
      add(finding("pool", Severity::warn, fmt::format("pool '{}' has the flag '{}'", name, flag),
                  "Make room in it or add OSDs: swaps to it are refused."));
      return false;
    }
    return true;
  }

  void look_at_health(Cluster& cluster) {
    const auto checks = cluster.health();
    if (!checks) {
      add(finding("health", Severity::info, checks.error().message, "Look at 'ceph health detail' yourself."));
      return;
    }
    for (const auto& check : *checks) {
      if (!is_grave(check)) continue;
      add(finding("health", Severity::warn, fmt::format("the cluster reports {}: {}", check.name, check.summary),
                  "See 'ceph health detail'."));
    }
  }

  // A running guest whose image is in the trash, where the next purge takes it away.
  void look_for_trashed(Cluster& cluster, const Domain& domain, const Disk& disk) {
    const auto image = cluster.image(*disk.image);
    if (image || image.error().code != ErrorCode::not_found) return;
    const auto trashed = cluster.trash_of(*disk.image);
    if (!trashed) return;
    for (const auto& entry : *trashed) {
      if (entry.watchers.empty()) continue;
      add(finding("image_in_trash", Severity::fail,
                  fmt::format("disk '{}' of running domain '{}' is {}, which is in the trash as '{}'", disk.target,
                              domain.name, to_string(*disk.image), entry.id),
                  fmt::format("Do not purge the trash. 'poolshift rescue --domain {} --disk {} --to POOL/IMAGE', with "
                              "the image that the volume's owner names, brings the guest there.",
                              domain.name, disk.target)));
    }
  }

  Ports ports_;
  const DoctorOptions& options_;
  Findings findings_;
  std::set<std::string> clusters_;  // whose health was looked at
};

}  // namespace

Findings lacking_features(const HypervisorVersions& versions, const std::string& librbd_version) {
  const std::map<Program, std::string> found = {
      {Program::libvirt, versions.libvirt}, {Program::qemu, versions.hypervisor}, {Program::librbd, librbd_version}};
  Findings lacking;
  for (const auto& feature : kFeatures) {
    const auto& version = found.at(feature.program);
    const bool is_told = std::any_of(lacking.begin(), lacking.end(), [&](const Finding& each) {
      return each.name == feature.name && each.severity == Severity::fail;
    });
    if (is_told || !is_older(version, feature.first)) continue;
    lacking.push_back(finding(feature.name, feature.severity,
                              fmt::format("{} {} {}", title_of(feature.program), version, feature.lack),
                              feature.advice));
  }
  return lacking;
}

Findings look_at_node(Ports ports, const DoctorOptions& options, const std::vector<JobStore::Seen>& jobs) {
  return Doctor(ports, options).look(jobs);
}

}  // namespace poolshift
