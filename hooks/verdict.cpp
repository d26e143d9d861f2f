#include "verdict.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>
#include <tuple>

#include "policy.h"

namespace poolshift::hook {

namespace {

// What a job says of an image that the domain's XML names.
enum class Claim {
  none,        // nothing: the image took no part in it
  good,        // it has all that the guest wrote
  retired,     // the guest has gone on on the target since
  unfinished,  // it is being filled by the job
  unknown,     // the guest may have written to either image
  held,        // an operator has to look first
};

// When the XML names the source.
Claim claim_on_source(Phase phase) {
  switch (phase) {
    case Phase::prepare:
    case Phase::copy:
    case Phase::pause:
    case Phase::undo:
    case Phase::undone: return Claim::good;
    case Phase::pivot: return Claim::unknown;
    case Phase::hydrate:
    case Phase::retire:
    case Phase::done: return Claim::retired;
    case Phase::held_on_source:
    case Phase::held_unknown:
    case Phase::held_on_target: return Claim::held;
  }
  return Claim::held;
}

// When the XML names the target. What an undone job left of it is what was there before, so an older job decides.
Claim claim_on_target(Phase phase) {
  switch (phase) {
    case Phase::prepare:
    case Phase::copy:
    case Phase::pause:
    case Phase::undo: return Claim::unfinished;
    case Phase::undone: return Claim::none;
    case Phase::pivot: return Claim::unknown;
    case Phase::hydrate:
    case Phase::retire:
    case Phase::held_on_target:
    case Phase::done: return Claim::good;
    case Phase::held_on_source:
    case Phase::held_unknown: return Claim::held;
  }
  return Claim::held;
}

// Under another domain an image that a guest has left is a copy like any other, say a backup that somebody looks into;
// one that is being filled is nobody's yet.
Claim claim_for_other_domain(const JobRecord& job, const Disk& disk) {
  if (disk.image != job.target) return Claim::none;
  const auto claim = claim_on_target(job.phase);
  return claim == Claim::good ? Claim::none : claim;
}

Claim claim_of(const JobRecord& job, const DomainDescription& domain, const Disk& disk) {
  if (job.domain_uuid != domain.uuid) return claim_for_other_domain(job, disk);
  if (disk.image == job.target) return claim_on_target(job.phase);
  if (disk.image == job.source) return claim_on_source(job.phase);
  // Neither, but an overlay that a handover left, or what somebody put there meanwhile.
  return is_held(job.phase) && disk.target == job.disk ? Claim::held : Claim::none;
}

// How the disk is reached stays as it is in the XML, so it must be right for the target.
std::optional<ImageName> reachable_target(const JobRecord& job, const Disk& disk) {
  const bool same_access = job.source_access == job.target_access;
  const bool same_cluster = disk.access.mon_hosts == job.source_access.mon_hosts;
  return same_access && same_cluster ? std::optional(job.target) : std::nullopt;
}

std::string sentence_of(Claim claim, const JobRecord& job, const DomainDescription& domain, const Disk& disk,
                        const std::string& jobs_folder) {
  const auto begin =
      fmt::format("PoolShift does not let domain '{}' start, because its disk '{}'", domain.name, disk.target);
  const auto swap = fmt::format("job '{}' ({} to {})", job.job_id, to_string(job.source), to_string(job.target));
  const auto recover = fmt::format("run 'poolshift recover {}' first", job.job_id);
  switch (claim) {
    case Claim::retired: {
      const auto mend =
          is_openstack(domain)
              ? std::string(
                    "restart nova-compute, whose PoolShift driver corrects Nova's and Cinder's "
                    "records, and start it through Nova")
              : fmt::format("name {} in its definition ('virsh edit {}')", to_string(job.target), domain.name);
      return fmt::format(
          "{} is {}, whose data is out of date since {} brought the guest to the target: {}, or, if it was put there "
          "on "
          "purpose since, move '{}/{}.journal' away",
          begin, to_string(job.source), swap, mend, jobs_folder, job.job_id);
    }
    case Claim::unfinished:
      return fmt::format(
          "{} is {}, which {} is still filling with the data of domain '{}': wait for 'poolshift status "
          "{}' to show its end, or {}",
          begin, to_string(job.target), swap, job.domain_name, job.job_id, recover);
    case Claim::unknown:
      return fmt::format(
          "{} is in the middle of being switched by {}, and which image has the guest's last writes is "
          "not known yet: {}",
          begin, swap, recover);
    case Claim::held:
      return fmt::format(
          "{} belongs to {}, which is held in phase '{}': {} ('poolshift status {}' says what it waits "
          "for)",
          begin, swap, name_of(job.phase), recover, job.job_id);
    case Claim::none:
    case Claim::good: break;
  }
  return "";
}

bool is_newer(const JobRecord& one, const JobRecord& other) {
  return std::tie(one.changed_wall_ms, one.started_wall_ms, one.job_id) >
         std::tie(other.changed_wall_ms, other.started_wall_ms, other.job_id);
}

}  // namespace

std::vector<Objection> objections(const DomainDescription& domain, const std::vector<JobRecord>& jobs,
                                  const std::string& jobs_folder) {
  std::vector<Objection> found;
  for (const auto& disk : domain.disks) {
    const JobRecord* newest = nullptr;
    for (const auto& job : jobs) {
      if (claim_of(job, domain, disk) == Claim::none) continue;
      if (newest == nullptr || is_newer(job, *newest)) newest = &job;
    }
    if (newest == nullptr) continue;
    const auto claim = claim_of(*newest, domain, disk);
    if (claim == Claim::good) continue;
    found.push_back({disk.target, sentence_of(claim, *newest, domain, disk, jobs_folder),
                     claim == Claim::retired ? reachable_target(*newest, disk) : std::nullopt});
  }
  return found;
}

std::vector<std::string> words_about(const DomainDescription& domain) {
  using nlohmann::json;
  // As a journal has them: in JSON.
  const auto quoted = [](const std::string& text) {
    return json(text).dump(-1, ' ', false, json::error_handler_t::replace);
  };
  std::vector<std::string> words = {quoted(domain.uuid)};
  for (const auto& disk : domain.disks) {
    if (disk.image) words.push_back(quoted(disk.image->image));
  }
  return words;
}

}  // namespace poolshift::hook
