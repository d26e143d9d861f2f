// The crash sweep: a swap is stopped at every single port call, before the call has acted, after it, and in its middle
// where a call has one; then `recover` runs, and whatever happened, nothing may be lost or left over.
//
// What dies: the process (kill -9), the process and the guest's QEMU, or the whole host.
#include <algorithm>
#include <catch2/catch.hpp>

#include "stage.h"

namespace poolshift::sweeps {

namespace {

const char* name_of(FakeWorld::CrashWhen when) {
  switch (when) {
    case FakeWorld::CrashWhen::before: return "before";
    case FakeWorld::CrashWhen::after: return "after";
    case FakeWorld::CrashWhen::torn: return "in";
  }
  return "?";
}

// Runs a swap until call `number`, where it dies. False: it ended before.
bool swap_until(Stage& stage, std::uint64_t number, FakeWorld::CrashWhen when) {
  stage.world.crash_at(number, when);
  try {
    stage.swap();
  } catch (const Crash&) {
    stage.world.process_dies();
    return true;
  }
  return false;
}

// Every call, but for a busy guest's swap: it follows the copy through hundreds of looks that are all alike, of which
// every seventh is taken; looks and calls have no common divisor with it, so that each kind of call has its turn.
std::uint64_t step_of(const Scenario& scenario) { return (scenario.hot ? 7 : 1) * kEvery; }

template <class Body>
void sweep(Body body) {
  for (const auto& scenario : kScenarios) {
    const auto calls = calls_of_a_whole_swap(scenario);
    REQUIRE(calls > 30);
    for (std::uint64_t number = 1; number <= calls; number += step_of(scenario)) {
      for (const auto when : {FakeWorld::CrashWhen::before, FakeWorld::CrashWhen::after, FakeWorld::CrashWhen::torn}) {
        INFO("scenario '" << scenario.name << "', dies " << name_of(when) << " call " << number << " of " << calls);
        body(scenario, number, when);
      }
    }
  }
}

}  // namespace

TEST_CASE("a swap that nobody disturbs ends as asked") {
  for (const auto& scenario : kScenarios) {
    INFO("scenario '" << scenario.name << "'");
    Stage stage(scenario);
    stage.swap();
    stage.check_ended();
    const bool undone = scenario.cancelled || scenario.copy_fails;
    REQUIRE(stage.last);
    CHECK(stage.last->phase == (undone ? Phase::undone : Phase::done));
    CHECK(stage.last->cancelled == scenario.cancelled);
    // In the trash: the source if asked; what a mirror wrote to in vain; the empty image whose name a clone took.
    const bool put_away = stage.is_handover() ? !undone && !scenario.create
                                              : scenario.copy_fails || (scenario.cancelled && scenario.create);
    CHECK(stage.world.trash.empty() != (put_away || scenario.trash));
    CHECK((stage.last->convergence != "none needed") == scenario.hot);
  }
}

// What a person or a scheduler does to a domain that is off, at any moment.
struct Meddling {
  const char* name;
  bool shows;  // on the source, for as long as the swap may look
  void (*act)(Stage& stage);
};

const Meddling kMeddlings[] = {
    {"started", true, [](Stage& stage) { stage.world.start_qemu(*stage.domain); }},
    {"started, and shut down after some writes", false,
     [](Stage& stage) {
       stage.world.start_qemu(*stage.domain);
       stage.world.advance(20);
       stage.world.shut_down(*stage.domain);
     }},
    {"started, and its QEMU dies", true,
     [](Stage& stage) {
       stage.world.start_qemu(*stage.domain);
       stage.world.advance(20);
       stage.world.kill_qemu(*stage.domain);
     }},
};

// A person runs recover until the job has ended; then the domain can be started, and nothing is missing.
void check_offline_ended(Stage& stage) {
  stage.check_ended();
  stage.world.advance(31'000);
  stage.world.start_qemu(*stage.domain);
  CHECK(stage.domain->state == DomainState::running);
  stage.world.advance(100);
  stage.check_data();
}

TEST_CASE("a domain that is off is started by somebody at any call: it waits or wins") {
  for (const auto& scenario : kScenarios) {
    if (!scenario.offline) continue;
    for (const auto& meddling : kMeddlings) {
      const auto calls = calls_of_a_whole_swap(scenario);
      int won = 0;
      int refused = 0;
      int on_target = 0;
      for (std::uint64_t number = 1; number <= calls; number += kEvery) {
        INFO("scenario '" << scenario.name << "', " << meddling.name << " at call " << number << " of " << calls);
        Stage stage(scenario);
        const auto instance = stage.domain->instance;
        bool hidden = false;
        stage.world.happen_at(number, [&] {
          if (stage.job_id.empty()) return;  // it is only being validated
          meddling.act(stage);
          hidden = stage.domain->instance == instance;
        });
        stage.swap();
        if (is_held(stage.last->phase)) {
          stage.check_data();
          stage.recover();
        }
        check_offline_ended(stage);
        refused += hidden ? 1 : 0;
        won += !hidden && stage.last->phase == Phase::undone ? 1 : 0;
        on_target += !hidden && stage.last->phase == Phase::done ? 1 : 0;
      }
      if (scenario.cancelled) continue;
      CHECK((won > 0) == meddling.shows);
      CHECK(refused > 0);
      CHECK(on_target > 0);
    }
  }
}

// The worst that can happen to a snapshot: a guest that comes before it and goes after it.
TEST_CASE("a domain that is off is started at any call and shut down at any later one") {
  for (const auto& scenario : kScenarios) {
    if (!scenario.offline || scenario.larger || scenario.trash) continue;
    const auto calls = calls_of_a_whole_swap(scenario);
    for (std::uint64_t number = 1; number <= calls; number += kEvery) {
      for (std::uint64_t later = 1; later <= 12; ++later) {
        INFO("scenario '" << scenario.name << "', started at call " << number << " of " << calls << ", shut down "
                          << later << " calls later");
        Stage stage(scenario);
        stage.world.happen_at(number, [&] {
          if (!stage.job_id.empty()) stage.world.start_qemu(*stage.domain);
        });
        stage.world.happen_at(number + later, [&] { stage.world.shut_down(*stage.domain); });
        stage.swap();
        if (is_held(stage.last->phase)) {
          stage.check_data();
          stage.recover();
        }
        check_offline_ended(stage);
      }
    }
  }
}

TEST_CASE("the process dies at any call, a domain that is off is started, and recover runs") {
  for (const auto& scenario : kScenarios) {
    if (!scenario.offline) continue;
    for (const auto& meddling : kMeddlings) {
      const auto calls = calls_of_a_whole_swap(scenario);
      for (std::uint64_t number = 1; number <= calls; number += kEvery) {
        for (const auto when :
             {FakeWorld::CrashWhen::before, FakeWorld::CrashWhen::after, FakeWorld::CrashWhen::torn}) {
          INFO("scenario '" << scenario.name << "', " << meddling.name << ", process died " << name_of(when) << " call "
                            << number << " of " << calls);
          Stage stage(scenario);
          if (!swap_until(stage, number, when)) continue;
          meddling.act(stage);
          stage.world.advance(100);
          stage.recover();
          check_offline_ended(stage);
        }
      }
    }
  }
}

TEST_CASE("a domain that is off is started while recover is at work") {
  for (const auto& scenario : kScenarios) {
    if (!scenario.offline || scenario.cancelled) continue;
    const auto calls = calls_of_a_whole_swap(scenario);
    for (std::uint64_t number = 1; number <= calls; number += 2 * kEvery) {
      for (std::uint64_t second = 1; second <= 30; second += kEvery) {
        INFO("scenario '" << scenario.name << "', process died after call " << number << " of " << calls
                          << ", started at recover's call " << second);
        Stage stage(scenario);
        if (!swap_until(stage, number, FakeWorld::CrashWhen::after)) continue;
        stage.world.happen_at(second, [&] { stage.world.start_qemu(*stage.domain); });
        stage.recover();
        check_offline_ended(stage);
      }
    }
  }
}

TEST_CASE("a guest that we suspended runs again, whoever dies or hangs") {
  for (const auto& scenario : kScenarios) {
    if (scenario.engine != Engine::handover || scenario.offline) continue;
    const auto calls = calls_of_a_whole_swap(scenario);
    for (std::uint64_t number = 1; number <= calls; number += kEvery) {
      for (const auto when : {FakeWorld::CrashWhen::before, FakeWorld::CrashWhen::after}) {
        INFO("scenario '" << scenario.name << "', " << name_of(when) << " call " << number << " of " << calls);
        {
          Stage stage(scenario);
          if (swap_until(stage, number, when)) {  // nobody runs recover
            stage.world.advance(kMaxPauseMs + kRollbackMs);
            stage.check_guest_runs();
            stage.check_data();
          }
        }
        Stage stage(scenario);
        stage.world.hang_at(number, 3 * kMaxPauseMs, when);
        stage.swap();
        if (stage.last && stage.last->phase == Phase::held_on_source) stage.remove_written_clone();
        stage.check_ended();
      }
    }
  }
}

TEST_CASE("the process and its guardian die at any call: recover lets the guest run") {
  for (const auto& scenario : kScenarios) {
    if (scenario.engine != Engine::handover || scenario.offline) continue;
    const auto calls = calls_of_a_whole_swap(scenario);
    for (std::uint64_t number = 1; number <= calls; number += kEvery) {
      INFO("scenario '" << scenario.name << "', dies after call " << number << " of " << calls);
      Stage stage(scenario);
      stage.world.guardians_die_too = true;
      if (!swap_until(stage, number, FakeWorld::CrashWhen::after)) continue;
      stage.recover();
      stage.check_ended();
    }
  }
}

TEST_CASE("cancelled while the target gets its data: held there, and recover goes on") {
  for (const auto hydration : {Hydration::offload, Hydration::flatten}) {
    const Scenario scenario{.name = "", .engine = Engine::handover, .hydration = hydration};
    const auto calls = calls_of_a_whole_swap(scenario);
    int held = 0;
    for (std::uint64_t number = 20; number <= calls; number += kEvery) {
      INFO("cancelled at call " << number << " of " << calls);
      Stage stage(scenario);
      stage.world.happen_at(number, [&] {
        stage.world.files[std::string(kStateDir) + "/jobs/" + stage.job_id + ".control"].content = R"({"cancel":true})";
      });
      stage.swap();
      REQUIRE(stage.last);
      if (!is_held(stage.last->phase)) {
        stage.world.files.erase(std::string(kStateDir) + "/jobs/" + stage.job_id + ".control");  // it came too late
        stage.check_ended();
        continue;
      }
      ++held;
      CHECK(stage.last->phase == Phase::held_on_target);
      CHECK(stage.last->guest_on == GuestOn::target);
      CHECK_FALSE(stage.last->cancelled);
      stage.check_guest_runs();
      stage.check_data();
      stage.recover();
      stage.check_ended();
      CHECK(stage.last->phase == Phase::done);
    }
    CHECK(held > 0);
  }
}

TEST_CASE("the target's pool is full while the target gets its data: held there, and recover goes on") {
  const Scenario scenario{.name = "", .engine = Engine::handover};
  const auto calls = calls_of_a_whole_swap(scenario);
  int held = 0;
  for (std::uint64_t number = 20; number <= calls; number += kEvery) {
    INFO("full at call " << number << " of " << calls);
    Stage stage(scenario);
    stage.world.happen_at(number, [&] { stage.world.pools.at("volumes-ssd").pool.full = true; });
    stage.swap();
    REQUIRE(stage.last);
    if (is_held(stage.last->phase)) {
      ++held;
      CHECK(stage.last->phase == Phase::held_on_target);
      stage.check_guest_runs();
      stage.world.pools.at("volumes-ssd").pool.full = false;
      stage.recover();
    }
    stage.check_ended();
  }
  CHECK(held > 0);
}

TEST_CASE("the process dies at any call") {
  sweep([](const Scenario& scenario, std::uint64_t number, FakeWorld::CrashWhen when) {
    Stage stage(scenario);
    if (!swap_until(stage, number, when)) return;
    stage.world.advance(200);  // the guest goes on, and so does its copy
    stage.recover();
    stage.world.advance(50);
    stage.check_ended();
    stage.check_recover_again_changes_nothing();
  });
}

TEST_CASE("the process dies at any call, and recover dies at any call") {
  for (const auto* name : {"target is larger", "handover, target is larger"}) {
    const Scenario& scenario = *std::find_if(std::begin(kScenarios), std::end(kScenarios),
                                             [&](const Scenario& each) { return std::string(each.name) == name; });
    const auto calls = calls_of_a_whole_swap(scenario);
    for (std::uint64_t number = 1; number <= calls; number += 3 * kEvery) {
      for (std::uint64_t second = 1;; ++second) {
        INFO(name << ": dies after call " << number << " of " << calls << ", recover before its call " << second);
        Stage stage(scenario);
        stage.world.guardians_die_too = number % 2 == 0;
        if (!swap_until(stage, number, FakeWorld::CrashWhen::after)) break;
        stage.world.crash_at(second, FakeWorld::CrashWhen::before);
        bool died = false;
        try {
          stage.recover();
        } catch (const Crash&) {
          died = true;
          stage.world.process_dies();
        }
        if (!died) break;
        stage.recover();
        stage.check_ended();
      }
    }
  }
}

TEST_CASE("the process and the guest's QEMU die at any call") {
  sweep([](const Scenario& scenario, std::uint64_t number, FakeWorld::CrashWhen when) {
    Stage stage(scenario);
    if (!swap_until(stage, number, when)) return;
    stage.world.kill_qemu(*stage.domain);
    stage.recover();
    stage.check_data();
    // In the one window in which nobody can know where the last writes went, it is held, and nothing was touched.
    if (stage.last && is_held(stage.last->phase)) {
      CHECK(stage.last->resume_phase == Phase::pivot);
      CHECK(stage.last->guest_on == GuestOn::unknown);
      CHECK(stage.world.image(kSource) != nullptr);
      CHECK(stage.world.image(kTarget) != nullptr);
      return;
    }
    stage.check_nothing_left();
    if (scenario.persistent) stage.check_ended();
  });
}

TEST_CASE("the host crashes at any call") {
  sweep([](const Scenario& scenario, std::uint64_t number, FakeWorld::CrashWhen when) {
    if (!scenario.persistent) return;  // nothing would be left to look at
    Stage stage(scenario);
    if (!swap_until(stage, number, when)) return;
    stage.world.host_crashes();
    stage.world.advance(1'000);
    stage.recover();
    stage.check_data();
    if (stage.last && is_held(stage.last->phase)) {
      CHECK(stage.last->resume_phase == Phase::pivot);
      return;
    }
    // The guest is started again and writes: still on the right image.
    stage.world.start_qemu(*stage.domain);
    stage.world.advance(100);
    stage.check_data();
    stage.check_nothing_left();
  });
}

// The pivot has happened, the guest has written to the target, and the persistent definition does not know it: started
// again, the guest is on its old data. Nobody may put the target away then.
TEST_CASE("the guest dies around the pivot and is started again on the source: held, and the newer data is kept") {
  const Scenario& scenario = kScenarios[0];
  const auto calls = calls_of_a_whole_swap(scenario);
  int held = 0;
  for (std::uint64_t number = 1; number <= calls; number += kEvery) {
    for (const auto when : {FakeWorld::CrashWhen::before, FakeWorld::CrashWhen::after}) {
      INFO("dies " << name_of(when) << " call " << number << " of " << calls);
      Stage stage(scenario);
      stage.world.pivots_forget_definition = true;
      if (!swap_until(stage, number, when)) continue;
      stage.world.advance(100);
      const bool pivoted = *stage.disk().shown.image == kTarget;
      stage.world.kill_qemu(*stage.domain);
      stage.world.advance(31'000);
      stage.world.start_qemu(*stage.domain);
      stage.recover();
      if (!pivoted) continue;
      REQUIRE(stage.last);
      CHECK(is_held(stage.last->phase));
      CHECK(stage.last->guest_on == GuestOn::unknown);
      CHECK(stage.world.trash.empty());
      ++held;
    }
  }
  CHECK(held > 0);
}

// Seen with libvirt 9.0 (docs/adr/0007-handover.md): it says "shut off", with the definition of before, and QEMU lives.
TEST_CASE("libvirtd forgets a domain that was switched: held, and nothing is touched") {
  const Scenario scenario{.name = "", .engine = Engine::handover};
  const auto calls = calls_of_a_whole_swap(scenario);
  int held = 0;
  for (std::uint64_t number = 20; number <= calls; ++number) {
    INFO("dies after call " << number << " of " << calls);
    Stage stage(scenario);
    stage.world.guardians_die_too = true;
    if (!swap_until(stage, number, FakeWorld::CrashWhen::after)) continue;
    const bool switched_paused =
        stage.domain->state == DomainState::paused && stage.disk().shown.image == kTarget && !stage.disk().overlay;
    if (!switched_paused) continue;
    stage.domain->state = DomainState::inactive;
    stage.disk().shown.image = stage.disk().persistent_image = kSource;
    stage.recover();
    REQUIRE(stage.last);
    INFO("phase " << name_of(stage.last->phase) << (stage.last->error ? ": " + stage.last->error->message : ""));
    CHECK(is_held(stage.last->phase));
    CHECK(stage.last->guest_on == GuestOn::unknown);
    CHECK(stage.world.image(kTarget) != nullptr);
    CHECK(stage.world.image(kSource)->snapshots.size() == 1);
    ++held;
  }
  CHECK(held > 0);
}

TEST_CASE("libvirtd is away for a second from any call on: the swap goes on by itself") {
  for (const auto& scenario : kScenarios) {
    const auto calls = calls_of_a_whole_swap(scenario);
    for (std::uint64_t number = 20; number <= calls; number += step_of(scenario)) {
      INFO("scenario '" << scenario.name << "', away from call " << number << " of " << calls);
      Stage stage(scenario);
      stage.world.happen_at(number, [&] { stage.world.hypervisor_away_until_ms = stage.world.now_ms + 1'000; });
      stage.swap();
      stage.check_ended();
    }
  }
}

TEST_CASE("the cluster is away for good from any call on: held, then recovered when it is back") {
  for (const auto engine : {Engine::mirror, Engine::handover}) {
    const Scenario scenario{.name = "", .engine = engine};
    const auto calls = calls_of_a_whole_swap(scenario);
    for (std::uint64_t number = 25; number <= calls; number += kEvery) {
      INFO("engine " << static_cast<int>(engine) << ", away from call " << number << " of " << calls);
      Stage stage(scenario);
      stage.world.happen_at(number, [&] { stage.world.cluster_away_until_ms = stage.world.now_ms + 600'000; });
      stage.swap();
      REQUIRE(stage.last);
      stage.check_guest_runs();
      if (is_held(stage.last->phase)) CHECK(stage.last->error->code == ErrorCode::unreachable);
      stage.world.advance(600'000);
      stage.recover();
      stage.check_ended();
    }
  }
}

}  // namespace poolshift::sweeps
