// The error sweep: every single port call of a swap returns an error, once or from then on, before it has acted or
// after it, at once or after a long silence; files cannot be written. Then the fault ends and `recover` runs.
//
// A call that never returns is not among them: each real one is bounded and then says `unreachable`
// (plugin/adapters); that is what the silent faults do. `not_found` is not either: it is an answer, not a fault.
#include <catch2/catch.hpp>

#include "stage.h"

namespace poolshift::sweeps {

namespace {

using Fault = FakeWorld::Fault;
using When = FakeWorld::CrashWhen;

constexpr std::uint64_t kMostCalls = 50'000;  // of a swap and its recovery; the longest undisturbed one takes 2,000
constexpr std::int64_t kSilentMs = 60'000;    // the bound of a call that gets no answer
constexpr const char* kCause = "injected fault";

struct Kind {
  const char* name;
  Fault fault;
};

Error injected(ErrorCode code) { return {code, kCause, "End the fault."}; }

// Of each error code that the ports name, and of each time at which it may come.
const Kind kKinds[] = {
    {"fails", {injected(ErrorCode::failed)}},
    {"fails after it has acted", {injected(ErrorCode::failed), When::after}},
    {"is denied from then on", {injected(ErrorCode::denied), When::before, true}},
    {"is busy", {injected(ErrorCode::busy)}},
    {"fails from then on", {injected(ErrorCode::failed), When::before, true}},
    {"is silent, and has not acted", {injected(ErrorCode::unreachable), When::before, false, kSilentMs}},
    {"is silent, and has acted", {injected(ErrorCode::unreachable), When::after, false, kSilentMs}},
    {"cannot write a file", {injected(ErrorCode::failed), When::before, false, 0, true}},
    {"cannot write any file from then on", {injected(ErrorCode::failed), When::before, true, 0, true}},
    {"writes half a record", {injected(ErrorCode::failed), When::torn, false, 0, true}},
    {"writes half a record each time from then on", {injected(ErrorCode::failed), When::torn, true, 0, true}},
    {"writes a file and cannot make it durable", {injected(ErrorCode::failed), When::after, false, 0, true}},
};

// The job of a swap that met a fault, and where it is.
void check_after_fault(Stage& stage, const Status& status) {
  stage.world.advance(kMaxPauseMs + kRollbackMs);  // at the latest then the guardian has stepped in
  stage.check_guest_runs();
  // Half-way through the move of a domain that is off, its definition names an image that is not there yet: it cannot
  // be started.
  if (!stage.scenario.offline || stage.world.image(*stage.disk().persistent_image) != nullptr) stage.check_data();
  if (!status || !stage.last) return;  // nothing was begun, or the journal says where it stopped
  INFO("phase " << name_of(stage.last->phase) << (stage.last->error ? ": " + stage.last->error->message : ""));
  REQUIRE((has_ended(stage.last->phase) || is_held(stage.last->phase)));
  if (is_held(stage.last->phase)) {
    REQUIRE(stage.last->error);
    CHECK(stage.last->error->message.find(kCause) != std::string::npos);
  }
}

void sweep_errors(const Scenario& scenario, const Kind& kind, std::uint64_t calls, std::uint64_t step) {
  for (std::uint64_t number = 1; number <= calls; number += step) {
    INFO("scenario '" << scenario.name << "', call " << number << " of " << calls << " " << kind.name);
    Stage stage(scenario);
    stage.world.most_calls = kMostCalls;
    stage.world.fail_at(number, kind.fault);
    try {
      const auto status = stage.try_swap();
      if (!stage.world.fault_is_hit()) continue;  // a call that cannot fail so
      check_after_fault(stage, status);
      stage.world.end_fault();
      stage.recover();
      if (stage.last && stage.last->phase == Phase::held_on_source) stage.remove_written_clone();
      stage.world.advance(100);
      stage.check_ended();
    } catch (const fakes::Endless&) {
      FAIL("a loop without end");
    }
  }
}

}  // namespace

TEST_CASE("any call of a swap fails: it ends or is held, and recover finishes it") {
  for (const auto& scenario : kScenarios) {
    const auto calls = calls_of_a_whole_swap(scenario);
    for (const auto& kind : kKinds) sweep_errors(scenario, kind, calls, (scenario.hot ? 41 : 1) * kEvery);
  }
}

}  // namespace poolshift::sweeps
