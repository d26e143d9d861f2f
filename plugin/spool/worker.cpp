#include "spool/worker.h"

#include <fmt/core.h>

#include <algorithm>

#include "include/poolshift.h"
#include "spool/job_json.h"

namespace poolshift {

using nlohmann::json;

namespace {

constexpr std::int64_t kLookAtHeldEveryMs = 2'000;
constexpr const char* kAttemptLabel = "attempt";

std::string name_of(const SpoolRequest& request) {
  return fmt::format("request {} (disk {} of {})", request.id, request.disk, request.domain_name);
}

std::string reason_of(const json& report) { return text_at(part_at(report, "error"), "message"); }

int result_of_state(const std::string& state) {
  if (state == "done") return POOLSHIFT_OK;
  if (state == "undone") return POOLSHIFT_UNDONE;
  if (state == "cancelled") return POOLSHIFT_CANCELLED;
  return POOLSHIFT_HELD;
}

// The attempt that made this job, from 1; 0: not known.
unsigned attempt_of(const json& job) {
  const auto text = text_at(part_at(job, "labels"), kAttemptLabel);
  if (text.empty() || text.size() > 6 || text.find_first_not_of("0123456789") != std::string::npos) return 0;
  return static_cast<unsigned>(std::stoul(text));
}

}  // namespace

Worker::Worker(System& system, Spool& spool, SwapRunner& runner, Options options)
    : system_(system), spool_(spool), runner_(runner), options_(std::move(options)) {}

void Worker::say(const std::string& text) const {
  if (options_.say) options_.say(text);
}

std::size_t Worker::count_running() const {
  return static_cast<std::size_t>(
      std::count_if(running_.begin(), running_.end(), [](const Running& each) { return each.job != nullptr; }));
}

Status Worker::take_up() {
  const auto bad = spool_.put_away_bad();
  if (!bad) return bad.error();
  for (const auto& reason : *bad) say(reason);
  const auto requests = spool_.running();
  if (!requests) return requests.error();
  if (requests->empty()) return {};
  const auto jobs = runner_.jobs();
  if (!jobs) return jobs.error();
  for (const auto& request : *requests) {
    if (is_mine(request)) POOLSHIFT_TRY(adopt(request, *jobs));
  }
  return {};
}

// Of the jobs of all its attempts the open one counts; without one, one that is done; else the latest, unless that one
// was counted before the worker died.
Status Worker::adopt(const SpoolRequest& request, const json& jobs) {
  const auto finished = spool_.finish_begun(request);
  if (!finished) return finished.error();
  if (*finished) return {};
  const auto retry = spool_.retry_of(request.id);
  if (!retry) return retry.error();
  const json* chosen = nullptr;
  for (const auto& job : jobs) {
    if (text_at(part_at(job, "labels"), kRequestLabel) != request.id) continue;
    const auto rank = [](const json& each) {
      return std::pair(is_open_job(each) ? 2 : text_at(each, "state") == "done" ? 1 : 0, attempt_of(each));
    };
    if (chosen == nullptr || rank(job) >= rank(*chosen)) chosen = &job;
  }
  Running running;
  running.request = request;
  running.attempts = retry->attempts;
  const bool was_counted = chosen != nullptr && !is_open_job(*chosen) && text_at(*chosen, "state") != "done" &&
                           attempt_of(*chosen) <= retry->attempts;
  if (chosen == nullptr || was_counted) {
    say(fmt::format("{} was taken and nothing was begun: it waits again", name_of(request)));
    const auto back = spool_.put_back(request);
    if (back || back.error().code == ErrorCode::not_found) return {};
    if (back.error().code != ErrorCode::exists) return back;
    return end(running, "failed", {POOLSHIFT_REFUSED, {{"error", error_json(back.error())}}}).ok()
               ? Status{}
               : Status{back.error()};
  }
  if (attempt_of(*chosen) > 0) running.attempts = std::max(running.attempts, attempt_of(*chosen) - 1);
  follow(running, *chosen);
  running_.push_back(std::move(running));
  return {};
}

// `job` as poolshift_jobs() shows it.
void Worker::follow(Running& running, const json& job) {
  running.job_id = text_at(job, "job");
  const bool runs = job.value("running", false);
  if (!runs && !is_open_job(job)) {
    running.ended = SpoolJob::Ended{result_of_state(text_at(job, "state")), job};
    return;
  }
  auto held = SpoolJob::Ended{POOLSHIFT_HELD, job};
  const bool goes_on = runs || fate_of(POOLSHIFT_HELD, job) == Fate::take_up;
  if (goes_on) {
    auto followed = runs ? runner_.attach(running.job_id) : runner_.take_up(running.job_id);
    if (followed) {
      say(fmt::format("{} goes on as job {}", name_of(running.request), running.job_id));
      running.job = std::move(*followed);
      running.take_up_ms = -1;
      running.told_bandwidth = UINT64_MAX;  // not known
      return;
    }
    held.report["error"] = error_json(followed.error());
  }
  hold(running, held, goes_on);
}

Result<Worker::Outlook> Worker::step() {
  POOLSHIFT_TRY(look_at_running());
  POOLSHIFT_TRY(look_at_held());
  POOLSHIFT_TRY(start_some());
  share_bandwidth();
  Outlook outlook;
  outlook.running = count_running();
  outlook.held = running_.size() - outlook.running;
  outlook.waiting = waiting_.size();
  return outlook;
}

Status Worker::look_at_running() {
  Status status;
  for (auto running = running_.begin(); running != running_.end();) {
    if (running->job != nullptr && !running->ended) {
      running->ended = running->job->ended();
      const auto id = text_at(running->job->status(), "job");
      if (!id.empty()) running->job_id = id;
    }
    if (!running->ended) {
      ++running;
      continue;
    }
    const auto concluded = conclude(*running);
    if (!concluded) status = concluded.error();  // it is tried again at the next step; the others go on
    running = concluded && *concluded ? running_.erase(running) : running + 1;
  }
  return status;
}

Result<bool> Worker::conclude(Running& running) {
  const auto ended = *running.ended;
  const auto fate = leaving_ && ended.result == POOLSHIFT_HELD ? Fate::is_held : fate_of(ended.result, ended.report);
  switch (fate) {
    case Fate::done: return end(running, "done", ended);
    case Fate::fails: {
      const auto state = text_at(ended.report, "state");
      return end(running, state.empty() || state == "done" ? "failed" : state, ended);
    }
    case Fate::try_again:
      if (running.attempts + 1 < options_.limits.attempts) return wait_again(running, ended);
      return end(running, text_at(ended.report, "state") == "undone" ? "undone" : "refused", ended);
    case Fate::take_up:
    case Fate::is_held: hold(running, ended, fate == Fate::take_up); return false;
  }
  return false;
}

Result<bool> Worker::end(const Running& running, const std::string& outcome, const SpoolJob::Ended& ended) {
  Finished finished;
  finished.request = running.request;
  finished.finished_ms = system_.wall_clock_ms();
  finished.outcome = outcome;
  finished.attempts = running.attempts + 1;
  finished.report = ended.report.is_object() ? ended.report : json();
  const auto error = part_at(ended.report, "error");
  if (error.is_object()) finished.error = error;
  POOLSHIFT_TRY(spool_.finish(finished));
  const auto reason = reason_of(ended.report);
  say(fmt::format("{}: {}{}{}", name_of(running.request), outcome, reason.empty() ? "" : ": ", reason));
  return true;
}

Result<bool> Worker::wait_again(const Running& running, const SpoolJob::Ended& ended) {
  Retry retry;
  retry.attempts = running.attempts + 1;
  const auto wait_ms = back_off_ms(retry.attempts);
  retry.not_before_ms = system_.wall_clock_ms() + wait_ms;
  const auto error = part_at(ended.report, "error");
  if (error.is_object()) retry.error = error;
  POOLSHIFT_TRY(spool_.set_retry(running.request.id, retry));
  const auto back = spool_.put_back(running.request);
  if (!back && back.error().code == ErrorCode::exists) return end(running, "failed", ended);  // a newer one waits
  if (!back) return back.error();
  say(fmt::format("{}: attempt {} failed: {}; the next one in {} s", name_of(running.request), retry.attempts,
                  reason_of(ended.report), wait_ms / 1000));
  return true;
}

void Worker::hold(Running& running, const SpoolJob::Ended& ended, bool take_up) {
  running.job.reset();
  running.ended.reset();
  running.report = ended.report;
  running.take_up_ms = -1;
  if (leaving_) return;  // the next worker takes it up
  if (take_up && running.attempts + 1 < options_.limits.attempts) {
    ++running.attempts;
    const auto wait_ms = back_off_ms(running.attempts);
    running.take_up_ms = system_.wall_clock_ms() + wait_ms;
    say(fmt::format("{}: held: {}; it is taken up again in {} s", name_of(running.request), reason_of(ended.report),
                    wait_ms / 1000));
    return;
  }
  say(fmt::format("{}: held: {} {}", name_of(running.request), reason_of(ended.report),
                  text_at(part_at(ended.report, "error"), "advice")));
}

// Somebody may have recovered them.
Status Worker::look_at_held() {
  const auto now_ms = system_.monotonic_ms();
  const bool any = std::any_of(running_.begin(), running_.end(), [](const Running& each) { return !each.job; });
  if (!any || leaving_ || (looked_at_held_ms_ >= 0 && now_ms - looked_at_held_ms_ < kLookAtHeldEveryMs)) return {};
  looked_at_held_ms_ = now_ms;
  const auto jobs = runner_.jobs();
  if (!jobs) return jobs.error();
  for (auto& running : running_) {
    if (running.job || running.ended || running.job_id.empty()) continue;
    const auto job = std::find_if(jobs->begin(), jobs->end(),
                                  [&](const json& each) { return text_at(each, "job") == running.job_id; });
    if (job == jobs->end()) continue;
    const bool changed = job->value("running", false) || !is_open_job(*job);
    const bool is_due = running.take_up_ms >= 0 && system_.wall_clock_ms() >= running.take_up_ms;
    if (changed || is_due) follow(running, *job);
  }
  return {};
}

Status Worker::start_some() {
  bool any_bad = false;
  auto requests = spool_.waiting(&any_bad);
  if (!requests) return requests.error();
  if (any_bad) {
    const auto bad = spool_.put_away_bad();
    if (!bad) return bad.error();
    for (const auto& reason : *bad) say(reason);
  }
  waiting_.clear();
  for (auto& request : *requests) {
    if (!is_mine(request)) continue;
    auto retry = spool_.retry_of(request.id);
    if (!retry) return retry.error();
    waiting_.push_back({std::move(request), std::move(*retry)});
  }
  std::vector<SpoolRequest> running;
  for (const auto& each : running_) {
    if (each.job) running.push_back(each.request);
  }
  const auto now_ms = system_.wall_clock_ms();
  waits_for_ = schedule(waiting_, running, options_.limits.parallel, now_ms, options_.minute_of_day(now_ms));
  if (!starts_) return {};
  std::vector<WaitingRequest> left;
  std::vector<WaitsFor> left_for;
  Status status;
  for (std::size_t i = 0; i < waiting_.size(); ++i) {
    if (waits_for_[i] == WaitsFor::nothing && status) {
      const auto started = start(waiting_[i]);
      if (started && *started) continue;
      if (!started) status = started.error();
    }
    left.push_back(std::move(waiting_[i]));
    left_for.push_back(waits_for_[i]);
  }
  waiting_ = std::move(left);
  waits_for_ = std::move(left_for);
  return status;
}

Result<bool> Worker::start(const WaitingRequest& waiting) {
  const auto& request = waiting.request;
  const auto claimed = spool_.claim(request);
  if (!claimed && claimed.error().code == ErrorCode::not_found) return true;  // somebody has removed it
  if (!claimed && claimed.error().code == ErrorCode::exists) return false;    // one for this disk is held
  if (!claimed) return claimed.error();
  Running running;
  running.request = request;
  running.attempts = waiting.retry.attempts;
  auto swap = swap_request_of(request);
  swap["labels"][kAttemptLabel] = std::to_string(running.attempts + 1);
  running.told_bandwidth = bandwidth_share(request, count_running() + 1, options_.limits.bandwidth_bytes_per_s);
  swap["bandwidth_bytes_per_s"] = running.told_bandwidth;
  auto job = runner_.start(swap);
  if (job) {
    say(fmt::format("{}: started: {} -> {}", name_of(request), to_string(request.source),
                    request.swap.value("target", "")));
    running.job = std::move(*job);
  } else {
    running.ended = SpoolJob::Ended{POOLSHIFT_USAGE, {{"error", error_json(job.error())}}};
  }
  running_.push_back(std::move(running));
  return true;
}

void Worker::share_bandwidth() {
  if (options_.limits.bandwidth_bytes_per_s == 0) return;
  const auto count = count_running();
  for (auto& running : running_) {
    if (!running.job) continue;
    const auto share = bandwidth_share(running.request, count, options_.limits.bandwidth_bytes_per_s);
    if (share != running.told_bandwidth && running.job->set_bandwidth(share)) running.told_bandwidth = share;
  }
}

bool Worker::leave() {
  leaving_ = true;
  starts_ = false;
  bool all = true;
  for (auto& running : running_) {
    if (running.job) all = running.job->leave() && all;
  }
  return all;
}

}  // namespace poolshift
