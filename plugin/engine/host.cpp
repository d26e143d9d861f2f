#include "engine/host.h"

#include <fmt/core.h>

#include <algorithm>

#include "base/json_reader.h"
#include "base/log.h"
#include "base/paths.h"
#include "engine/doctor.h"
#include "engine/job_log.h"
#include "flow/rescue.h"

namespace poolshift {

using nlohmann::json;

namespace {

constexpr std::int64_t kValidateRetryMs = 1'000;

// The report of a request of which no job was made.
Host::Answer refusal(const SwapRequest& request, const Error& error) {
  Validation nothing_checked;
  nothing_checked.plan = plan_for(request);
  auto report = report_of(nothing_checked);
  report["state"] = "refused";
  report["plan"] = nullptr;
  report["error"] = error_to_json(error);
  // Nobody answered: nothing was changed, which is what the caller needs to know.
  return {error.code == ErrorCode::unreachable ? POOLSHIFT_REFUSED : result_of(error.code), std::move(report)};
}

// No limit is always allowed: a flatten has none.
Status check_limit_holds(const JobRecord& record) {
  const bool flattens = record.flattening || record.hydration == Hydration::flatten;
  if (record.engine != kHandover || !flattens) return {};
  return Error{ErrorCode::refused,
               fmt::format("job '{}' flattens its target, and librbd has no limit for that", record.job_id),
               fmt::format("Wait for its end; 'poolshift status {}' shows how far it is.", record.job_id)};
}

// What can be said of a job whose journal cannot be used.
json held(const std::string& job_id, const Error& error) {
  return {{"schema", 1},
          {"job", job_id},
          {"state", "held"},
          {"guest_on", name_of(GuestOn::unknown)},
          {"checks", json::array()},
          {"error", error_to_json(error)}};
}

}  // namespace

Result<HostOptions> parse_host_options(const char* text) {
  HostOptions options;
  if (text == nullptr) return options;
  JsonReader reader(text, "host options", kMaxRequestBytes);
  options.connect_uri = reader.text("connect", 4096, options.connect_uri);
  options.state_dir = reader.text("state_dir", 4096, options.state_dir);
  options.overlay_dir = reader.text("overlay_dir", 4096);
  options.guardian = reader.text("guardian", 4096);
  options.ceph_conf = reader.text("ceph_conf", 4096);
  options.log_file = reader.text("log_file", 4096);
  options.log_level =
      reader.one_of("log_level", {"trace", "debug", "info", "warning", "error", "critical", "off"}, options.log_level);
  options.log_journald = reader.boolean("log_journald", false);
  options.patience_ms = static_cast<std::int64_t>(reader.whole_number("patience_s", 86'400, 60)) * 1000;
  options.owns_process = reader.boolean("owns_process", false);
  if (options.state_dir.empty() || options.state_dir.front() != '/') {
    reader.fail("state_dir", fmt::format("is '{}'", options.state_dir), "Give an absolute path.");
  }
  for (const auto& [key, path] : {std::pair{"overlay_dir", options.overlay_dir}, {"guardian", options.guardian}}) {
    if (!path.empty() && path.front() != '/') reader.fail(key, fmt::format("is '{}'", path), "Give an absolute path.");
  }
  POOLSHIFT_TRY(reader.finish());
  return options;
}

void LocalJob::ask(const JobControl& wanted) {
  const std::lock_guard lock(mutex_);
  asked_.cancel = asked_.cancel || wanted.cancel;
  if (wanted.bandwidth_bytes_per_s) asked_.bandwidth_bytes_per_s = wanted.bandwidth_bytes_per_s;
}

JobControl LocalJob::asked() {
  const std::lock_guard lock(mutex_);
  return asked_;
}

void LocalJob::finish(poolshift_result result, json report) {
  result_ = result;
  report_ = std::move(report);
  done_->set();
}

Host::Host(HostOptions options, HostPorts ports)
    : options_(std::move(options)),
      ports_(std::move(ports)),
      store_(*ports_.system, options_.state_dir, options_.overlay_dir) {
  if (options_.overlay_dir.empty()) options_.overlay_dir = options_.state_dir + "/overlays";
  if (options_.guardian.empty()) options_.guardian = kGuardianPath;
}

Host::~Host() {
  const std::lock_guard lock(mutex_);
  for (auto& running : running_) running.job->leave() = true;
  for (auto& running : running_) running.thread.join();
}

Status Host::open() { return store_.open(); }

Result<Validation> Host::validate_patiently(const SwapRequest& request, const std::atomic<bool>* leave) {
  const auto started_ms = ports_.system->monotonic_ms();
  for (;;) {
    auto validation = validate(ports(), store_, request, {options_.ceph_conf, options_.overlay_dir, options_.guardian});
    const auto waited_ms = ports_.system->monotonic_ms() - started_ms;
    if (validation) {
      validation->plan.seconds.validate = static_cast<double>(waited_ms) / 1000.0;
      return validation;
    }
    const bool left = leave != nullptr && *leave;
    if (validation.error().code != ErrorCode::unreachable || waited_ms >= options_.patience_ms || left) {
      return validation;
    }
    ports_.system->sleep_ms(kValidateRetryMs);
  }
}

Result<Host::Answer> Host::check(const SwapRequest& request) {
  const auto validation = validate_patiently(request, nullptr);
  if (!validation) return refusal(request, validation.error());
  return Answer{validation->refused() ? POOLSHIFT_REFUSED : POOLSHIFT_OK, report_of(*validation)};
}

std::shared_ptr<LocalJob> Host::start(const SwapRequest& request) {
  auto job = std::make_shared<LocalJob>(ports_.system->random_id(), ports_.make_done_signal());
  const std::lock_guard lock(mutex_);
  std::erase_if(running_, [](Running& running) {
    if (!running.job->done().wait_ms(0)) return false;
    running.thread.join();
    return true;
  });
  running_.push_back({job, std::thread([this, job, request] { carry_out(*job, request); })});
  return job;
}

void Host::carry_out(LocalJob& job, const SwapRequest& request) {
  // A thread has no caller that an exception could reach; what the libraries throw (no memory) ends here.
  try {
    auto answer = carry_out_checked(job, request);
    log_end(answer.json);
    job.finish(answer.result, std::move(answer.json));
  } catch (const std::exception& reason) {
    const Error error{ErrorCode::internal, fmt::format("job '{}' stopped: {}", job.id(), reason.what()),
                      fmt::format("Report it; 'poolshift recover {}' goes on with the job.", job.id())};
    auto report = held(job.id(), error);
    log_end(report);
    job.finish(POOLSHIFT_INTERNAL, std::move(report));
  }
}

Host::Answer Host::carry_out_checked(LocalJob& job, const SwapRequest& request) {
  auto validation = validate_patiently(request, &job.leave());
  if (!validation) return refusal(request, validation.error());
  if (validation->refused()) return {POOLSHIFT_REFUSED, report_of(*validation)};
  JobRecord record = validation->plan;
  record.job_id = job.id();
  record.started_wall_ms = record.changed_wall_ms = ports_.system->wall_clock_ms();
  if (record.engine == kHandover && !record.offline) record.overlay_path = store_.overlay_path_of(job.id());
  auto journal = store_.create(record);
  if (!journal) return refusal(request, journal.error());
  if (const auto asked = job.asked(); asked.cancel || asked.bandwidth_bytes_per_s) {
    if (auto changed = store_.change_control(job.id(), asked); !changed) log().warn("{}", changed.error().message);
  }
  Swap swap(ports(), store_, std::move(*journal), std::move(record), job.leave());
  const LogFields about(fields_of(swap.record));
  log_begin(swap.record);
  swap.guardian_setup = guardian_setup();
  swap.counters_before = Swap::CountersBefore{validation->counters, validation->counters_ms};
  return end_of(swap, run(swap, Entry::fresh, {options_.patience_ms}));
}

GuardianSetup Host::guardian_setup() const {
  return {options_.guardian, options_.connect_uri, options_.log_file, options_.log_journald};
}

Host::Answer Host::end_of(const Swap& swap, const Status& status) const {
  if (has_ended(swap.record.phase)) const_cast<JobStore&>(store_).drop_volatile(swap.record.job_id);
  auto report = report_of(swap.record);
  if (!status) {  // the journal could not be written: it still has the phase before
    report["state"] = "held";
    report["error"] = error_to_json(status.error());
    return {POOLSHIFT_HELD, std::move(report)};
  }
  return {result_of(swap.record, false), std::move(report)};
}

Result<Host::Answer> Host::look_at(const std::string& job_id) {
  const auto seen = store_.look_at(job_id);
  if (!seen) return seen.error();
  return Answer{result_of(seen->record, seen->running), status_of(*seen)};
}

Status Host::ask(Verb verb, const JobControl& wanted, const std::string& job_id, LocalJob* local) {
  auto seen = store_.look_at(job_id);
  if (!seen && seen.error().code == ErrorCode::not_found && local != nullptr && !local->done().wait_ms(0)) {
    local->ask(wanted);  // it is being validated; its thread asks for this once there is a journal
    seen = store_.look_at(job_id);
    if (!seen && seen.error().code == ErrorCode::not_found) return {};
  }
  if (!seen) return seen.error();
  POOLSHIFT_TRY(check_verb(verb, seen->record.phase, job_id));
  if (wanted.bandwidth_bytes_per_s.value_or(0) != 0) POOLSHIFT_TRY(check_limit_holds(seen->record));
  return store_.change_control(job_id, wanted);
}

Status Host::cancel(const std::string& job_id, LocalJob* local) {
  return ask(Verb::cancel, {true, std::nullopt}, job_id, local);
}

Status Host::set_bandwidth(const std::string& job_id, std::uint64_t bytes_per_s, LocalJob* local) {
  return ask(Verb::set_bandwidth, {false, bytes_per_s}, job_id, local);
}

// Those that can be read, oldest first; for the others an entry in `damaged`.
Result<std::vector<JobStore::Seen>> Host::seen_jobs(json* damaged) {
  const auto ids = store_.job_ids();
  if (!ids) return ids.error();
  std::vector<JobStore::Seen> jobs;
  for (const auto& id : *ids) {
    auto seen = store_.look_at(id);
    if (seen) {
      jobs.push_back(std::move(*seen));
    } else if (seen.error().code != ErrorCode::not_found) {
      damaged->push_back(held(id, seen.error()));
    }
  }
  std::stable_sort(jobs.begin(), jobs.end(), [](const auto& one, const auto& other) {
    return one.record.started_wall_ms < other.record.started_wall_ms;
  });
  return jobs;
}

Result<json> Host::jobs() {
  json list = json::array();
  const auto seen = seen_jobs(&list);
  if (!seen) return seen.error();
  for (const auto& job : *seen) list.push_back(status_of(job));
  return json{{"schema", 1}, {"jobs", std::move(list)}};
}

Result<json> Host::disks() {
  const auto domains = ports_.hypervisor->list_domains();
  if (!domains) return domains.error();
  json list = json::array();
  for (const auto& domain : *domains) {
    for (const auto& disk : domain.disks) {
      if (!disk.image) continue;
      list.push_back(
          {{"domain", domain.name},
           {"domain_uuid", domain.uuid},
           {"active", is_active(domain)},
           {"openstack", domain.of_openstack},
           {"disk", disk.target},
           {"serial", disk.serial},
           {"source",
            {{"pool", disk.image->pool}, {"namespace", disk.image->rbd_namespace}, {"image", disk.image->image}}}});
    }
  }
  return json{{"schema", 1}, {"disks", std::move(list)}};
}

// A journal names no ceph.conf. It is that of this program, else that of the disk in the domain, which libvirt keeps.
void Host::find_ceph_conf(JobRecord& record) {
  const bool same = record.source_access == record.target_access;
  auto conf = options_.ceph_conf;
  const bool is_needed = record.source_access.mon_hosts.empty() || record.target_access.mon_hosts.empty();
  if (conf.empty() && is_needed) {
    const auto domain = ports_.hypervisor->find_domain(record.domain_uuid);
    if (domain) {
      for (const auto& disk : domain->disks) {
        if (disk.target == record.disk) conf = disk.access.conf_path;
      }
    }
  }
  if (record.source_access.mon_hosts.empty() || !options_.ceph_conf.empty()) {
    record.source_access.conf_path = conf;
    if (!conf.empty()) record.source_access.mon_hosts.clear();
  }
  if (same) {
    record.target_access = record.source_access;
  } else if (record.target_access.mon_hosts.empty()) {
    record.target_access.conf_path = conf;
  }
}

Result<Host::Answer> Host::recover_one(const std::string& job_id) {
  auto opened = store_.open_job(job_id);
  if (!opened) return opened.error();
  if (has_ended(opened->record.phase)) {
    store_.drop_volatile(job_id);  // its process may have died before it could
    return Answer{POOLSHIFT_OK, report_of(opened->record)};
  }
  find_ceph_conf(opened->record);
  const std::atomic<bool> never_left{false};
  Swap swap(ports(), store_, std::move(opened->journal), std::move(opened->record), never_left);
  const LogFields about(fields_of(swap.record));
  swap.guardian_setup = guardian_setup();
  auto answer = end_of(swap, run(swap, Entry::take_up, {options_.patience_ms}));
  log_end(answer.json);
  // Undone or cancelled is how this job ended, not a failure of recovering it.
  if (answer.result != POOLSHIFT_HELD) answer.result = POOLSHIFT_OK;
  return answer;
}

Result<Host::Answer> Host::recover(const std::string& job_id) {
  json reports = json::array();
  auto worst = POOLSHIFT_OK;
  const auto take = [&](const Answer& answer) {
    if (answer.result == POOLSHIFT_HELD) worst = POOLSHIFT_HELD;
    reports.push_back(answer.json);
  };
  if (!job_id.empty()) {
    const auto answer = recover_one(job_id);
    if (!answer) return answer.error();
    take(*answer);
  } else {
    const auto seen = seen_jobs(&reports);
    if (!seen) return seen.error();
    if (!reports.empty()) worst = POOLSHIFT_HELD;  // damaged journals
    for (const auto& job : *seen) {
      if (has_ended(job.record.phase)) store_.drop_volatile(job.record.job_id);
      if (job.running || has_ended(job.record.phase)) continue;
      const auto answer = recover_one(job.record.job_id);
      if (!answer && answer.error().code == ErrorCode::busy) continue;  // somebody was faster
      if (!answer && answer.error().code == ErrorCode::denied) {        // another user's: the others can be taken up
        take({POOLSHIFT_HELD, held(job.record.job_id, answer.error())});
        continue;
      }
      if (!answer) return answer.error();
      take(*answer);
    }
  }
  return Answer{worst, {{"schema", 1}, {"jobs", std::move(reports)}}};
}

Result<json> Host::rescue(const SwapRequest& request, bool dry_run) {
  const auto plan = plan_rescue(ports(), store_, request, options_.ceph_conf);
  if (!plan) return plan.error();
  json report = {{"schema", 1},
                 {"source", to_string(plan->source)},
                 {"target", to_string(plan->target)},
                 {"restores", nullptr},
                 {"sets_aside", nullptr},
                 {"creates_target", plan->create_target},
                 {"done", !dry_run}};
  if (!plan->trash_id.empty()) report["restores"] = plan->trash_id;
  if (plan->set_aside) report["sets_aside"] = to_string(stale_name(plan->target));
  if (dry_run) return report;
  POOLSHIFT_TRY(make_ready(ports(), *plan));
  log().info("rescue of domain '{}': {}", request.domain, report.dump());
  return report;
}

Host::Answer Host::doctor() {
  Findings findings;
  json damaged = json::array();
  std::vector<JobStore::Seen> jobs;
  if (auto opened = store_.open(); !opened) {
    findings.push_back(finding("state_dir", Severity::fail, opened.error()));
  } else if (auto seen = seen_jobs(&damaged); !seen) {
    findings.push_back(finding("state_dir", Severity::fail, seen.error()));
  } else {
    jobs = std::move(*seen);
  }
  for (const auto& entry : damaged) {
    findings.push_back(finding("journal", Severity::fail, entry["error"]["message"], entry["error"]["advice"]));
  }
  const DoctorOptions options{options_.state_dir, options_.overlay_dir, options_.guardian, options_.ceph_conf,
                              options_.patience_ms};
  for (auto& each : look_at_node(ports(), options, jobs)) findings.push_back(std::move(each));
  json list = json::array();
  bool failed = false;
  for (const auto& each : findings) {
    failed = failed || each.severity == Severity::fail;
    list.push_back(to_json<json>(each));
  }
  return {failed ? POOLSHIFT_HELD : POOLSHIFT_OK, {{"schema", 1}, {"findings", std::move(list)}}};
}

}  // namespace poolshift
