#include "hook.h"

#include <fmt/core.h>

#include <map>
#include <string_view>
#include <utility>

#include "adapters/domain_xml.h"
#include "journal/job_store.h"
#include "policy.h"
#include "spool/spool.h"
#include "trigger.h"
#include "verdict.h"

namespace poolshift::hook {

namespace {

using Level = LogLine::Level;

std::string text_of(const Error& error) { return fmt::format("{}. {}", error.message, error.advice); }

void pass_over(Answer& answer, const Error& error) { answer.log.push_back({Level::warning, text_of(error)}); }

// Which journals there are; not read yet.
std::vector<std::string> jobs_in(JobStore& store, Answer& answer) {
  auto ids = store.job_ids();
  if (ids) return std::move(*ids);
  if (ids.error().code != ErrorCode::not_found) pass_over(answer, ids.error());
  return {};
}

std::vector<JobRecord> jobs_about(const DomainDescription& domain, JobStore& store, const std::vector<std::string>& ids,
                                  Answer& answer) {
  std::vector<JobRecord> jobs;
  const auto words = words_about(domain);
  for (const auto& id : ids) {
    auto record = store.newest_record_with(id, words);
    if (!record) {
      pass_over(answer, record.error());
    } else if (*record) {
      jobs.push_back(std::move(**record));
    }
  }
  return jobs;
}

void refuse(Answer& answer, const Objection& objection) {
  if (!answer.refused) answer.complaint = objection.sentence;  // one sentence: the other disks' come after this one
  answer.refused = true;
  answer.log.push_back({Level::error, objection.sentence});
}

// Puts the targets in the place of the disks' sources; false when that is not possible for one of them.
bool retarget(std::string_view xml, const std::vector<Objection>& objections, Answer& answer) {
  std::map<std::string, ImageName> targets;
  for (const auto& objection : objections) {
    if (!objection.target) return false;
    targets.emplace(objection.disk, *objection.target);
  }
  auto changed = renamed_images_xml(xml, targets);
  if (!changed) return false;
  answer.xml = std::move(*changed);
  for (const auto& [disk, target] : targets) {
    answer.log.push_back(
        {Level::info, fmt::format("the disk '{}' comes in on an image that a swap has left behind, and "
                                  "is on its target {} now",
                                  disk, to_string(target))});
  }
  return true;
}

Answer guard(System& system, const HookFolders& folders, bool may_retarget,
             const std::function<Result<std::string>()>& read_xml) {
  Answer answer;
  JobStore store(system, folders.state);
  const auto ids = jobs_in(store, answer);
  if (ids.empty()) return answer;
  const auto xml = read_xml();
  const auto domain = xml ? parse_domain_xml(*xml) : Result<DomainDescription>(xml.error());
  if (!domain) {
    pass_over(answer, domain.error());
    return answer;
  }
  const auto found = objections(*domain, jobs_about(*domain, store, ids, answer), folders.state + "/jobs");
  if (found.empty()) return answer;
  if (may_retarget && load_policy(system, folders.policy).policy.journals_are_shared) {
    if (retarget(*xml, found, answer)) return answer;
  }
  for (const auto& objection : found) refuse(answer, objection);
  return answer;
}

void submit(System& system, const HookFolders& folders, const SpoolRequest& request, Answer& answer) {
  Spool spool(system, folders.state);
  const auto what = fmt::format("disk '{}' of domain '{}', {} to {}", request.disk, request.domain_name,
                                to_string(request.source), request.swap.value("target", ""));
  const auto id = spool.submit(request);
  if (id) {
    answer.log.push_back({Level::info, fmt::format("asked for a swap, request '{}': {}", *id, what)});
  } else if (id.error().code == ErrorCode::exists) {
    answer.log.push_back({Level::info, fmt::format("asked for already: {}", what)});
  } else {
    answer.log.push_back(
        {Level::error, fmt::format("a swap could not be asked for ({}): {}", what, text_of(id.error()))});
  }
}

Answer trigger(System& system, const HookFolders& folders, Event event,
               const std::function<Result<std::string>()>& read_xml) {
  Answer answer;
  const auto loaded = load_policy(system, folders.policy);
  for (const auto& error : loaded.errors) pass_over(answer, error);
  const auto xml = read_xml();
  if (!xml) {
    pass_over(answer, xml.error());
    return answer;
  }
  // Most domains ask for nothing, and most hosts have no policy.
  if (loaded.policy.rules.empty() && xml->find(kMetadataNamespace) == std::string::npos) return answer;
  const auto domain = parse_domain_xml(*xml);
  if (!domain) {
    pass_over(answer, domain.error());
    return answer;
  }
  const auto asked = asked_for(event, *domain, loaded.policy);
  for (const auto& error : asked.errors) pass_over(answer, error);
  for (const auto& request : asked.requests) submit(system, folders, request, answer);
  return answer;
}

}  // namespace

Answer answer(System& system, const HookFolders& folders, const std::string& operation,
              const std::function<Result<std::string>()>& read_xml) {
  if (operation == "prepare") return guard(system, folders, false, read_xml);
  if (operation == "migrate") return guard(system, folders, true, read_xml);
  if (operation == "started") return trigger(system, folders, Event::started, read_xml);
  if (operation == "stopped") return trigger(system, folders, Event::stopped, read_xml);
  return {};
}

}  // namespace poolshift::hook
