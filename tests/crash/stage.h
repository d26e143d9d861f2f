// What both sweeps run: a scenario in the fake world, a swap in it, `recover`, and what must be true afterwards.
#pragma once

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <memory>
#include <optional>
#include <sstream>
#include <string>

#include "engine/run.h"
#include "fakes/fake_world.h"
#include "flow/flow.h"
#include "flow/tag.h"

namespace poolshift::sweeps {

using fakes::Crash;
using fakes::FakeDisk;
using fakes::FakeDomain;
using fakes::FakeWorld;

inline const ImageName kSource{"volumes-hdd", "", "disk"};
inline const ImageName kTarget{"volumes-ssd", "", "disk"};
inline constexpr std::uint64_t kSizeBytes = 64 * fakes::kBlockBytes;
inline constexpr const char* kStateDir = "/state";
inline constexpr const char* kOverlayDir = "/state/overlays";
inline constexpr const char* kGuardian = "/guardian";
inline constexpr std::int64_t kMaxPauseMs = 3'000;
// Only every so many calls: for the slow build with sanitizers.
inline const std::uint64_t kEvery = [] {
  const char* every = std::getenv("POOLSHIFT_SWEEP_EVERY");
  return every != nullptr ? std::strtoull(every, nullptr, 10) : 1;
}();
// What a guardian needs to take the overlay off and to resume, once it has stepped in.
inline constexpr std::int64_t kRollbackMs = 1'000;

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

inline const Scenario kScenarios[] = {
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

  // What `poolshift swap` does. Throws Crash. The error: nothing was begun, or the journal could not be written.
  Status try_swap() {
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
    if (!validation) return validation.error();
    for (const auto& check : validation->checks) {
      if (check.outcome == Check::Outcome::refuse)
        return Error{ErrorCode::refused, check.name + ": " + check.found, ""};
    }
    JobRecord record = validation->plan;
    record.job_id = process.system->random_id();
    job_id = record.job_id;
    CHECK(record.offline == scenario.offline);
    if (record.engine == kHandover && !record.offline)
      record.overlay_path = std::string(kOverlayDir) + "/" + job_id + ".qcow2";
    record.started_wall_ms = process.system->wall_clock_ms();
    auto journal = process.store.create(record);
    if (!journal) return journal.error();
    Swap swap(process.ports(), process.store, std::move(*journal), std::move(record), process.leave);
    if (scenario.cancelled) {
      world.files[std::string(kStateDir) + "/jobs/" + job_id + ".control"].content = R"({"cancel":true})";
    }
    const auto status = run(swap, Entry::fresh, {});
    last = swap.record;
    if (status && has_ended(last->phase)) process.store.drop_volatile(job_id);
    return status;
  }

  void swap() {
    const auto status = try_swap();  // outside an assertion, which would catch a Crash
    if (!status) FAIL(status.error().message);
  }

  // What `poolshift recover` does.
  Status try_recover() {
    Process process(world);
    const auto ids = process.store.job_ids();
    if (!ids) return ids.error();
    for (const auto& id : *ids) {
      auto opened = process.store.open_job(id);
      if (!opened) return opened.error();
      last = opened->record;
      if (has_ended(last->phase)) {
        process.store.drop_volatile(id);
        continue;
      }
      Swap swap(process.ports(), process.store, std::move(opened->journal), std::move(opened->record), process.leave);
      const auto status = run(swap, Entry::take_up, {});
      last = swap.record;
      if (!status) return status;
      if (has_ended(last->phase)) process.store.drop_volatile(id);
    }
    return {};
  }

  void recover() {
    const auto status = try_recover();
    if (!status) FAIL(status.error().message);
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

inline std::uint64_t calls_of_a_whole_swap(const Scenario& scenario) {
  Stage stage(scenario);
  stage.swap();
  return stage.world.calls();
}

}  // namespace poolshift::sweeps
