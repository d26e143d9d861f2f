// The crash sweep: a swap is stopped at every single port call, before the call has acted, after it, and in its middle
// where a call has one; then `recover` runs, and whatever happened, nothing may be lost or left over.
//
// What dies: the process (kill -9), the process and the guest's QEMU, or the whole host.
#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <sstream>

#include "engine/run.h"
#include "fakes/fake_world.h"
#include "flow/flow.h"
#include "flow/tag.h"

namespace poolshift {

using fakes::Crash;
using fakes::FakeDisk;
using fakes::FakeDomain;
using fakes::FakeWorld;

namespace {

const ImageName kSource{"volumes-hdd", "", "disk"};
const ImageName kTarget{"volumes-ssd", "", "disk"};
constexpr std::uint64_t kSizeBytes = 64 * fakes::kBlockBytes;
constexpr const char* kStateDir = "/state";
constexpr const char* kOverlayDir = "/state/overlays";
constexpr const char* kGuardian = "/guardian";
constexpr std::int64_t kMaxPauseMs = 3'000;
// Only every so many calls: for the slow build with sanitizers.
const std::uint64_t kEvery = [] {
  const char* every = std::getenv("POOLSHIFT_SWEEP_EVERY");
  return every != nullptr ? std::strtoull(every, nullptr, 10) : 1;
}();
// What a guardian needs to take the overlay off and to resume, once it has stepped in.
constexpr std::int64_t kRollbackMs = 1'000;

struct Scenario {
  const char* name;
  bool create = false;
  bool larger = false;
  bool trash = false;
  bool unmaps = true;
  bool persistent = true;
  bool cancelled = false;  // somebody cancels in the middle of the copy
  bool copy_fails = false;
  bool hot = false;  // the guest writes faster than the copy
  bool pivot_fails = false;
  Engine engine = Engine::mirror;
  Hydration hydration = Hydration::offload;
  bool paused_before = false;
  bool stops_writing = false;  // it is idle: nothing ever makes the target its own
  bool offline = false;        // the domain is shut off
};

const Scenario kScenarios[] = {
    {.name = "target exists"},
    {.name = "target is created", .create = true},
    {.name = "target is larger", .larger = true},
    {.name = "source goes to the trash", .trash = true},
    {.name = "target gets thick", .unmaps = false},
    {.name = "transient domain", .persistent = false},
    {.name = "cancelled", .cancelled = true},
    {.name = "cancelled, target created", .create = true, .cancelled = true},
    {.name = "cancelled, target larger", .larger = true, .cancelled = true},
    {.name = "copy fails", .copy_fails = true},
    {.name = "copy fails, target created", .create = true, .copy_fails = true},
    {.name = "copy fails, target larger", .larger = true, .copy_fails = true},
    {.name = "busy guest", .hot = true},
    {.name = "busy guest whose copy fails", .copy_fails = true, .hot = true},
    {.name = "pivot fails once", .pivot_fails = true},
    {.name = "handover", .engine = Engine::handover},
    {.name = "handover, target is created", .create = true, .engine = Engine::handover},
    {.name = "handover, target is larger", .larger = true, .engine = Engine::handover},
    {.name = "handover, source goes to the trash", .trash = true, .engine = Engine::handover},
    {.name = "handover, transient domain", .persistent = false, .engine = Engine::handover},
    {.name = "handover, cancelled", .cancelled = true, .engine = Engine::handover},
    {.name = "handover, target created, cancelled", .create = true, .cancelled = true, .engine = Engine::handover},
    {.name = "handover, pivot fails once", .pivot_fails = true, .engine = Engine::handover},
    {.name = "handover, guest was paused", .engine = Engine::handover, .paused_before = true},
    {.name = "handover, idle guest", .engine = Engine::handover, .stops_writing = true},
    {.name = "handover, flattened", .engine = Engine::handover, .hydration = Hydration::flatten},
    {.name = "offline", .engine = Engine::handover, .offline = true},
    {.name = "offline, target is created", .create = true, .engine = Engine::handover, .offline = true},
    {.name = "offline, target is larger", .larger = true, .engine = Engine::handover, .offline = true},
    {.name = "offline, source goes to the trash", .trash = true, .engine = Engine::handover, .offline = true},
    {.name = "offline, cancelled", .cancelled = true, .engine = Engine::handover, .offline = true},
    {.name = "offline, flattened",
     .create = true,
     .engine = Engine::handover,
     .hydration = Hydration::flatten,
     .offline = true},
};

// One process: its ports and its view of the state folder.
struct Process {
  explicit Process(FakeWorld& world)
      : hypervisor(world.hypervisor()), storage(world.storage()), system(world.system()), store(*system, kStateDir) {}

  Ports ports() { return {*hypervisor, *storage, *system}; }

  std::unique_ptr<Hypervisor> hypervisor;
  std::unique_ptr<Storage> storage;
  std::unique_ptr<System> system;
  JobStore store;
  std::atomic<bool> leave{false};
};

struct Stage {
  explicit Stage(const Scenario& scenario_in) : scenario(scenario_in) {
    world.add_image(kSource, kSizeBytes);
    if (!scenario.create) {
      world.add_image(kTarget, scenario.larger ? 2 * kSizeBytes : kSizeBytes).spec.metadata["owner"] = "somebody";
    }
    auto disk = FakeWorld::disk_on("vda", kSource, scenario.stops_writing ? 0 : scenario.hot ? 4'000 : 300);
    disk.shown.unmaps = scenario.unmaps;
    disk.configured_limit.total_bytes_per_s = scenario.hot ? 500'000'000 : 0;
    if (!scenario.persistent) disk.persistent_image.reset();
    domain = &world.add_domain("guest", {disk});
    domain->persistent = scenario.persistent;
    world.fill(*domain, "vda", 24);
    world.files[kGuardian].content = "a program";
    if (scenario.paused_before) domain->state = DomainState::paused;
    if (scenario.offline) {
      world.advance(100);
      world.shut_down(*domain);
    }
    instance_before = domain->instance;
    world.copy_bytes_per_s = scenario.hot ? 3'000'000 : 2'000'000;
    if (scenario.copy_fails && !scenario.hot) world.copies_fail_after_bytes = 8 * fakes::kBlockBytes;
    world.copies_fail_when_limited = scenario.copy_fails && scenario.hot;
    if (scenario.pivot_fails) world.next_pivot_fails = Error{ErrorCode::failed, "the pivot failed", "Try again."};
    limit_before = disk.configured_limit;
  }

  // What `poolshift swap` does. Throws Crash.
  void swap() {
    Process process(world);
    SwapRequest request;
    request.domain = "guest";
    request.disk = "vda";
    request.target = kTarget;
    request.create = scenario.create;
    request.engine = scenario.engine;
    request.hydration = scenario.hydration;
    request.max_pause_ms = kMaxPauseMs;
    request.source_after = scenario.trash ? SourceAfter::trash : SourceAfter::keep;
    auto validation = validate(process.ports(), process.store, request, {"", kOverlayDir, kGuardian});
    REQUIRE(validation);
    for (const auto& check : validation->checks) {
      if (check.outcome == Check::Outcome::refuse) FAIL(check.name << ": " << check.found);
    }
    JobRecord record = validation->plan;
    record.job_id = process.system->random_id();
    job_id = record.job_id;
    CHECK(record.offline == scenario.offline);
    if (record.engine == kHandover && !record.offline)
      record.overlay_path = std::string(kOverlayDir) + "/" + job_id + ".qcow2";
    record.started_wall_ms = process.system->wall_clock_ms();
    auto journal = process.store.create(record);
    REQUIRE(journal);
    Swap swap(process.ports(), process.store, std::move(*journal), std::move(record), process.leave);
    if (scenario.cancelled) {
      world.files[std::string(kStateDir) + "/jobs/" + job_id + ".control"].content = R"({"cancel":true})";
    }
    const auto status = run(swap, Entry::fresh, {});
    REQUIRE(status);
    last = swap.record;
    if (has_ended(last->phase)) process.store.drop_volatile(job_id);
  }

  // What `poolshift recover` does.
  void recover() {
    Process process(world);
    const auto ids = process.store.job_ids();
    REQUIRE(ids);
    for (const auto& id : *ids) {
      auto opened = process.store.open_job(id);
      if (!opened) FAIL(opened.error().message);
      last = opened->record;
      if (has_ended(last->phase)) {
        process.store.drop_volatile(id);
        continue;
      }
      Swap swap(process.ports(), process.store, std::move(opened->journal), std::move(opened->record), process.leave);
      const auto status = run(swap, Entry::take_up, {});  // outside REQUIRE, which would catch a Crash
      REQUIRE(status);
      last = swap.record;
      if (has_ended(last->phase)) process.store.drop_volatile(id);
    }
  }

  FakeDisk& disk() { return domain->disks.front(); }

  // Every acknowledged write is on what the domain's disk is on; of a domain that is gone, on the image that the job
  // names.
  void check_data() {
    const bool is_gone = domain->state == DomainState::inactive && !domain->persistent;
    const bool is_known = last && last->guest_on != GuestOn::unknown;
    const auto& named = is_known && last->guest_on == GuestOn::target ? kTarget : kSource;
    for (const auto& [block, stamp] : disk().acknowledged) {
      const auto there = is_gone && is_known ? world.read(named, block) : world.read(disk(), block);
      if (there < stamp) FAIL("block " << block << " holds write " << there << ", acknowledged was " << stamp);
    }
  }

  bool is_handover() const { return scenario.engine == Engine::handover; }

  void check_guest_runs() {
    if (domain->state == DomainState::inactive || domain->instance != instance_before) return;
    CHECK(domain->state == (scenario.paused_before ? DomainState::paused : DomainState::running));
    if (!scenario.paused_before) CHECK(domain->longest_pause_ms <= kMaxPauseMs + kRollbackMs);
  }

  void check_nothing_left() {
    CHECK(world.locked.empty());
    CHECK(world.guardians.empty());
    check_guest_runs();
    for (const auto& domain_there : world.domains) {
      if (domain_there->state == DomainState::inactive && !domain_there->persistent) continue;  // it is gone
      for (const auto& each : domain_there->disks) {
        CHECK_FALSE(each.mirror.has_value());
        CHECK_FALSE(each.overlay.has_value());
        CHECK(each.persistent_overlay.empty());
        if (domain_there->state != DomainState::inactive) CHECK(each.limit == limit_before);
      }
    }
    for (const auto& [name, image] : world.images) {
      INFO(to_string(name));
      CHECK_FALSE(name.image.starts_with("poolshift."));
      CHECK_FALSE(image.spec.metadata.contains(kJobKey));
      CHECK(image.snapshots.empty());
      CHECK(image.half_removed.empty());
      CHECK(image.unmapped.empty());
      CHECK(image.mapped_in_vain.empty());
      CHECK((image.spec.features & kFeatureObjectMap) != 0);
      CHECK(image.parent.empty());
    }
    CHECK(world.half_trashed.empty());
    CHECK(world.half_renamed.empty());
    for (const auto& [path, file] : world.files) {
      INFO(path);
      CHECK((path.ends_with(".journal") || path.ends_with(".lock") || path == kGuardian));
    }
  }

  void check_undone() {
    CHECK(*disk().shown.image == kSource);
    CHECK((!scenario.persistent || *disk().persistent_image == kSource));
    const auto* target = world.image(kTarget);
    if (scenario.create) {
      CHECK(target == nullptr);
    } else {
      REQUIRE(target != nullptr);
      CHECK(target->blocks.empty());
      CHECK(target->spec.size_bytes == (scenario.larger ? 2 * kSizeBytes : kSizeBytes));
      CHECK(target->spec.metadata.at("owner") == "somebody");
    }
  }

  void check_done() {
    CHECK(*disk().shown.image == kTarget);
    CHECK((!scenario.persistent || *disk().persistent_image == kTarget));
    const auto* target = world.image(kTarget);
    REQUIRE(target != nullptr);
    CHECK(target->spec.size_bytes == (scenario.larger ? 2 * kSizeBytes : kSizeBytes));
    CHECK(target->spec.metadata.contains("owner") != scenario.create);
    CHECK(std::none_of(target->blocks.begin(), target->blocks.end(), [](const auto& b) { return b.second == 0; }));
    CHECK((world.image(kSource) == nullptr) == scenario.trash);
    if (world.image(kSource) != nullptr) CHECK(world.image(kSource)->watchers.empty());
  }

  void check_ended() {
    check_data();
    check_nothing_left();
    if (!last) {  // died before there was a journal: nothing was begun
      check_undone();
      return;
    }
    INFO("phase " << name_of(last->phase) << (last->error ? ": " + last->error->message : ""));
    REQUIRE(has_ended(last->phase));
    CHECK(last->guest_on == (last->phase == Phase::done ? GuestOn::target : GuestOn::source));
    if (last->phase == Phase::done) {
      CHECK_FALSE(last->error.has_value());
      check_done();
    } else {
      check_undone();
    }
  }

  // The one thing that is left to a person: a copy that was asked for just before the guardian stepped in, and begun
  // after it, has written to the clone. It holds nothing but copies; still PoolShift does not delete it.
  void remove_written_clone() {
    CHECK(last->error->message.find("has data of its own") != std::string::npos);
    check_guest_runs();
    check_data();
    world.images.erase(kTarget);
    recover();
  }

  // All that a second recover may not change.
  std::string fingerprint() {
    std::ostringstream text;
    for (const auto& [name, image] : world.images) {
      text << to_string(name) << image.id << image.spec.size_bytes << image.spec.metadata.size();
    }
    text << world.trash.size();
    for (const auto& [path, file] : world.files) text << path << file.content;
    for (const auto& each : world.domains) text << each->name << to_string(*each->disks.front().shown.image);
    return text.str();
  }

  void check_recover_again_changes_nothing() {
    const auto before = fingerprint();
    recover();
    CHECK(fingerprint() == before);
  }

  const Scenario& scenario;
  FakeWorld world;
  FakeDomain* domain = nullptr;
  WriteLimit limit_before;
  int instance_before = 0;  // of QEMU
  std::string job_id;
  std::optional<JobRecord> last;
};

std::uint64_t calls_of_a_whole_swap(const Scenario& scenario) {
  Stage stage(scenario);
  stage.swap();
  return stage.world.calls();
}

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

// docs/adr/0012-calls-that-do-not-return.md
TEST_CASE("changes to images are not answered from any call on: it ends or is held, and recover goes on") {
  using Unanswered = FakeWorld::Unanswered;
  int held = 0;
  for (const auto& scenario : kScenarios) {
    if (scenario.hot || scenario.copy_fails) continue;
    const auto calls = calls_of_a_whole_swap(scenario);
    for (std::uint64_t number = 1; number <= calls; number += kEvery) {
      for (const auto unanswered : {Unanswered::made, Unanswered::not_made}) {
        for (const bool only_next : {true, false}) {
          INFO("scenario '" << scenario.name << "', from call " << number << " of " << calls << ", "
                            << (unanswered == Unanswered::made ? "made" : "not made")
                            << (only_next ? ", the next only" : ""));
          Stage stage(scenario);
          stage.world.happen_at(number, [&] {
            if (stage.job_id.empty()) return;  // it is only being validated
            stage.world.changes_unanswered = unanswered;
            stage.world.only_next_unanswered = only_next;
          });
          stage.swap();
          CHECK(stage.world.calls() < 100 * calls);
          stage.check_guest_runs();
          stage.check_data();
          stage.world.changes_unanswered = Unanswered::no;
          if (is_held(stage.last->phase)) {
            ++held;
            CHECK(stage.last->error->code == ErrorCode::unreachable);
            stage.recover();
          }
          stage.check_ended();
        }
      }
    }
  }
  CHECK(held > 0);
}

TEST_CASE("a change that is not answered hears cancel and leave") {
  const Scenario scenario{.name = "", .engine = Engine::handover};
  const auto calls = calls_of_a_whole_swap(scenario);
  int cancelled = 0;
  for (std::uint64_t number = 1; number <= calls; number += kEvery) {
    INFO("unanswered and cancelled at call " << number << " of " << calls);
    Stage stage(scenario);
    std::int64_t asked_at_ms = 0;
    stage.world.happen_at(number, [&] {
      if (stage.job_id.empty()) return;
      stage.world.changes_unanswered = FakeWorld::Unanswered::not_made;
      stage.world.only_next_unanswered = true;
      asked_at_ms = stage.world.now_ms;
      stage.world.files[std::string(kStateDir) + "/jobs/" + stage.job_id + ".control"].content = R"({"cancel":true})";
    });
    stage.swap();
    if (stage.last->phase == Phase::done) continue;  // it came too late
    ++cancelled;
    CHECK(stage.last->error->code == ErrorCode::cancelled);
    if (is_held(stage.last->phase)) stage.recover();
    stage.check_ended();
  }
  CHECK(cancelled > 0);
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

}  // namespace poolshift
