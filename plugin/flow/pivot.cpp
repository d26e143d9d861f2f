// The point of no return: the guest is switched to the target. That it happened is read from the domain's XML, not from
// the call's answer; retire.cpp then asks the images' watchers too.
#include <fmt/core.h>

#include <optional>

#include "flow/flow.h"
#include "flow/handover.h"

namespace poolshift {

namespace {

constexpr int kAttempts = 3;
constexpr std::int64_t kLookEveryMs = 5;  // of a handover the guest waits for this
constexpr std::int64_t kAttemptMs = 10'000;
constexpr std::int64_t kRefusedAttemptMs = 100;

// The phase that follows; empty when libvirt has not made up its mind in `attempt_ms`.
Result<std::optional<Phase>> wait_for_switch(Swap& swap, std::int64_t attempt_ms) {
  const auto deadline_ms = swap.ports.system.monotonic_ms() + attempt_ms;
  for (;;) {
    const auto facts = observe(swap);
    if (!facts) return facts.error();
    const bool is_undecided = facts->copy == Facts::Copy::ours || facts->copy == Facts::Copy::ours_pivoting;
    if (!is_undecided) return std::optional(decide(Phase::pivot, *facts).next);
    if (swap.ports.system.monotonic_ms() >= deadline_ms) return std::optional<Phase>();
    POOLSHIFT_TRY(swap.wait_ms(kLookEveryMs));
  }
}

// libvirt has recorded the switch in the definition as well, or is told to; then the guest of a handover runs again.
Status let_it_run_on_target(Swap& swap) {
  const JobRecord& record = swap.record;
  if (record.engine != kHandover) return {};
  POOLSHIFT_TRY(point_definition_at(swap, record.target, record.target_access));
  if (record.resume_guest) POOLSHIFT_TRY(swap.ports.hypervisor.resume(record.domain_uuid));
  swap.end_pause();
  return {};
}

}  // namespace

Result<Phase> pivot(Swap& swap) {
  const JobRecord& record = swap.record;
  swap.show_progress({"switching to the target", 0, 0, 0, -1});
  Error last_error{
      ErrorCode::failed,
      fmt::format("libvirt did not switch disk '{}' of domain '{}' to the target", record.disk, record.domain_name),
      fmt::format("The copy is still running: 'poolshift recover {}' tries again.", record.job_id)};
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const auto asked = swap.ports.hypervisor.pivot_mirror(record.domain_uuid, record.disk);
    if (!asked && asked.error().code == ErrorCode::unreachable) return asked.error();
    if (!asked) last_error.message = asked.error().message;
    const auto next = wait_for_switch(swap, asked ? kAttemptMs : kRefusedAttemptMs);
    if (!next) return next.error();
    if (!*next) {
      POOLSHIFT_TRY(swap.still_ours());
      continue;
    }
    if (*next != Phase::retire && *next != Phase::hydrate) {
      POOLSHIFT_TRY(swap.still_ours());  // then that is why
      break;
    }
    POOLSHIFT_TRY(let_it_run_on_target(swap));
    return **next;
  }
  return last_error;
}

}  // namespace poolshift
