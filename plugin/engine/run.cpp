#include "engine/run.h"

#include <fmt/core.h>

#include <algorithm>

#include "base/log.h"
#include "flow/flow.h"
#include "flow/handover.h"
#include "flow/write_limit.h"

namespace poolshift {

namespace {

constexpr std::int64_t kFirstBackoffMs = 100;
constexpr std::int64_t kLastBackoffMs = 2'000;
constexpr std::int64_t kBringBackMs = 60'000;

Result<Phase> run_step(Swap& swap) {
  switch (swap.record.phase) {
    case Phase::prepare: return prepare(swap);
    case Phase::copy: return copy_mirror(swap);
    case Phase::pause: return swap.record.offline ? pause_offline(swap) : pause(swap);
    case Phase::pivot: return swap.record.offline ? pivot_offline(swap) : pivot(swap);
    case Phase::hydrate: return hydrate(swap);
    case Phase::retire: return retire(swap);
    case Phase::undo: return undo(swap);
    default: break;
  }
  return Error{ErrorCode::internal, fmt::format("phase '{}' has no step", name_of(swap.record.phase)), "Report it."};
}

double* seconds_of(JobRecord& record) {
  switch (record.phase) {
    case Phase::prepare: return &record.seconds.prepare;
    case Phase::copy: return &record.seconds.copy;
    case Phase::pause:
    case Phase::pivot: return &record.seconds.pivot;
    case Phase::hydrate: return &record.seconds.hydrate;
    case Phase::retire: return &record.seconds.retire;
    case Phase::undo: return &record.seconds.undo;
    default: return nullptr;
  }
}

// Where a job is parked that cannot go on in this phase.
Phase parked(Phase phase) {
  if (is_held(phase)) return phase;
  switch (phase) {
    case Phase::hydrate:
    case Phase::retire: return Phase::held_on_target;
    case Phase::pivot: return Phase::held_unknown;
    default: return Phase::held_on_source;
  }
}

Status move_to(Swap& swap, Phase next) {
  JobRecord& record = swap.record;
  if (!may_move(record.phase, next)) {
    return Error{
        ErrorCode::internal,
        fmt::format("job '{}' may not move from '{}' to '{}'", record.job_id, name_of(record.phase), name_of(next)),
        "Report it; the job stays as it is."};
  }
  const Phase before = record.phase;
  if (is_held(next)) record.resume_phase = is_held(before) ? record.resume_phase : before;
  record.phase = next;
  record.guest_on = usual_guest_on(next);
  log().info("job {}: {} -> {}", record.job_id, name_of(before), name_of(next));
  return swap.save();
}

// A job may be held because the undo of an earlier failure failed: the first cause is named too.
Error with_first_cause(const JobRecord& record, Error reason) {
  const bool is_first = !record.error || record.error->message.find(reason.message) != std::string::npos;
  if (is_first || is_held(record.phase)) return reason;
  reason.message = fmt::format("{}; before that: {}", reason.message, record.error->message);
  return reason;
}

Status hold(Swap& swap, Phase held, GuestOn guest_on, const Error& reason) {
  swap.record.error = with_first_cause(swap.record, reason);
  // Where this cannot be done the guardian goes on trying.
  if (swap.record.resume_guest) {
    if (auto back = bring_guest_back(swap, 0); !back) log().error("{}", back.error().message);
  }
  if (swap.record.phase != held) POOLSHIFT_TRY(move_to(swap, held));
  swap.record.guest_on = guest_on;
  return swap.save();
}

class Runner {
 public:
  Runner(Swap& swap, const RunOptions& options) : swap_(swap), options_(options) {}

  Status run(bool look_first) {
    while (!has_ended(swap_.record.phase) && !stopped_) {
      POOLSHIFT_TRY(look_first ? take_up() : step());
      look_first = look_next_;
      look_next_ = false;
    }
    return {};
  }

 private:
  // Looks where the guest is and enters the phase that follows from it.
  Status take_up() {
    JobRecord& record = swap_.record;
    const Phase phase = is_held(record.phase) ? record.resume_phase : record.phase;
    // Whoever suspended the guest is gone, and its guardian may be too.
    if (record.resume_guest) {
      if (auto back = bring_guest_back(swap_, kBringBackMs); !back) return after_failure(back.error());
    }
    const auto facts = observe(swap_);
    if (!facts) return after_failure(facts.error());
    const Verdict verdict = decide(phase, *facts);
    log().info("job {}: taken up in phase {}: {}", record.job_id, name_of(phase), verdict.why);
    if (is_held(verdict.next)) {
      stopped_ = true;
      return hold(swap_, verdict.next, verdict.guest_on, doubt(verdict));
    }
    if (verdict.next == Phase::undo && !record.error) {
      record.error =
          Error{ErrorCode::failed,
                fmt::format("the swap was interrupted in phase '{}' and undone: {}", name_of(phase), verdict.why),
                "Start it again when the cause is gone."};
    }
    if (verdict.next != Phase::undo) record.error.reset();
    if (verdict.next != record.phase) return move_to(swap_, verdict.next);
    return {};
  }

  Error cannot_look(const Error& error) const {
    const JobRecord& record = swap_.record;
    return {error.code,
            fmt::format("cannot find out which image disk '{}' of domain '{}' is on: {}", record.disk,
                        record.domain_name, error.message),
            fmt::format("{} Then run 'poolshift recover {}'.", error.advice, record.job_id)};
  }

  Error doubt(const Verdict& verdict) const {
    const JobRecord& record = swap_.record;
    return {ErrorCode::failed,
            fmt::format("it cannot be proven where disk '{}' of domain '{}' is: {}", record.disk, record.domain_name,
                        verdict.why),
            fmt::format("Do not start the domain and delete neither {} nor {}; look at 'virsh domblklist' and "
                        "'rbd status', then run 'poolshift recover {}'.",
                        to_string(record.source), to_string(record.target), record.job_id)};
  }

  Status step() {
    const auto started_ms = swap_.ports.system.monotonic_ms();
    const auto waits_before = swap_.waits();
    const auto next = run_step(swap_);
    if (swap_.waits() != waits_before) unreachable_since_ms_ = -1;  // it answered meanwhile: any outage is a new one
    if (double* seconds = seconds_of(swap_.record)) *seconds += swap_.seconds_since(started_ms);
    if (!next) return after_failure(next.error());
    unreachable_since_ms_ = -1;
    return move_to(swap_, *next);
  }

  Status after_failure(const Error& error) {
    JobRecord& record = swap_.record;
    if (error.code == ErrorCode::left) {
      stopped_ = true;
      return {};
    }
    if (error.code == ErrorCode::unreachable) return wait_and_look_again(error);
    log().warn("job {}: {} failed: {}", record.job_id, name_of(record.phase), error.message);
    if (!record.error) record.error = error;
    if (record.phase == Phase::prepare || record.phase == Phase::copy || record.phase == Phase::pause) {
      look_next_ = true;
      return move_to(swap_, Phase::undo);
    }
    if (record.phase == Phase::pivot) return after_failed_pivot(error);
    stopped_ = true;
    return hold(swap_, parked(record.phase), usual_guest_on(parked(record.phase)), error);
  }

  // Ends or delays the job, whatever the look says: nothing leads from here back to here.
  Status after_failed_pivot(const Error& error) {
    const auto facts = observe(swap_);
    if (!facts && facts.error().code == ErrorCode::unreachable) return wait_and_look_again(facts.error());
    if (!facts) {
      stopped_ = true;
      return hold(swap_, Phase::held_unknown, GuestOn::unknown, cannot_look(facts.error()));
    }
    const Verdict verdict = decide(Phase::pivot, *facts);
    const bool is_on_target = verdict.next == Phase::retire || verdict.next == Phase::hydrate;
    if (is_on_target) swap_.record.error.reset();
    if (is_on_target || verdict.next == Phase::undo) return move_to(swap_, verdict.next);
    stopped_ = true;
    POOLSHIFT_TRY(restore_write_limit(swap_));
    if (verdict.next == Phase::copy) return hold(swap_, Phase::held_on_source, GuestOn::source, error);
    return hold(swap_, Phase::held_unknown, GuestOn::unknown, error);
  }

  Status wait_and_look_again(const Error& error) {
    auto& system = swap_.ports.system;
    if (unreachable_since_ms_ < 0) {
      unreachable_since_ms_ = system.monotonic_ms();
      backoff_ms_ = kFirstBackoffMs;
      log().warn("job {}: {}; waiting for it", swap_.record.job_id, error.message);
    }
    if (system.monotonic_ms() - unreachable_since_ms_ >= options_.patience_ms) {
      stopped_ = true;
      const Phase held = parked(swap_.record.phase);
      return hold(swap_, held, usual_guest_on(held), error);
    }
    swap_.disconnect();
    system.sleep_ms(backoff_ms_);
    if (swap_.was_left()) stopped_ = true;
    backoff_ms_ = std::min(backoff_ms_ * 2, kLastBackoffMs);
    look_next_ = true;
    return {};
  }

  Swap& swap_;
  const RunOptions& options_;
  bool stopped_ = false;
  bool look_next_ = false;
  std::int64_t unreachable_since_ms_ = -1;
  std::int64_t backoff_ms_ = 0;
};

}  // namespace

Status run(Swap& swap, Entry entry, const RunOptions& options) {
  if (entry == Entry::take_up && usual_guest_on(swap.record.phase) == GuestOn::target) {
    POOLSHIFT_TRY(swap.forget_cancel());  // it was held as asked; now it is to go on
  }
  return Runner(swap, options).run(entry == Entry::take_up);
}

}  // namespace poolshift
