// The bandwidth limit of a running swap, by both engines: that it holds, changes, and keeps nobody from being heard.
#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "engine/host.h"
#include "engine/run.h"
#include "fakes/fake_world.h"

namespace poolshift {

using fakes::FakeWorld;
using nlohmann::json;

namespace {

const ImageName kSource{"volumes-hdd", "", "disk"};
const ImageName kTarget{"volumes-ssd", "", "disk"};
constexpr std::uint64_t kSizeBytes = 32 * 1024 * 1024;
constexpr std::uint64_t kObjectBytes = 4 * 1024 * 1024;  // what the images' order says
constexpr std::uint64_t kSlow = 64 * 1024;               // an object takes 64 s
constexpr std::int64_t kPromisedMs = 1'000;              // poolshift.h: what is asked for takes effect within a second
constexpr std::int64_t kCallsMs = 200;                   // what the calls of the fakes take until the job has stopped
constexpr std::uint64_t kCalls = 50'000;
constexpr const char* kGuardian = "/guardian";

class Flag : public DoneSignal {
 public:
  void set() override {}
  bool wait_ms(int) override { return true; }
  int fd() const override { return -1; }
};

// One process after the other, all in this thread.
struct Stage {
  explicit Stage(Engine engine) {
    world.add_image(kSource, kSizeBytes);
    world.add_image(kTarget, kSizeBytes);
    domain = &world.add_domain("guest", {FakeWorld::disk_on("vda", kSource, 10)});
    world.fill(*domain, "vda", 24);
    world.files[kGuardian].content = "a program";
    request.domain = "guest";
    request.disk = "vda";
    request.target = kTarget;
    request.engine = engine;
    request.max_pause_ms = 3'000;
    for (std::uint64_t number = 1; number <= kCalls; ++number) {
      world.happen_at(number, [this] {
        if (!meanwhile || happening_) return;
        happening_ = true;
        meanwhile();
        happening_ = false;
      });
    }
  }

  void swap() {
    auto validation = validate(ports(), store, request, {"", "/state/overlays", kGuardian});
    REQUIRE(validation);
    REQUIRE_FALSE(validation->refused());
    JobRecord record = validation->plan;
    job_id = record.job_id = system->random_id();
    if (record.engine == kHandover) record.overlay_path = "/state/overlays/" + job_id + ".qcow2";
    auto journal = store.create(record);
    REQUIRE(journal);
    carry_on(std::move(*journal), std::move(record), Entry::fresh);
  }

  void recover() {
    auto opened = store.open_job(job_id);
    REQUIRE(opened);
    carry_on(std::move(opened->journal), std::move(opened->record), Entry::take_up);
  }

  void carry_on(JournalWriter journal, JobRecord record, Entry entry) {
    leave = false;
    Swap swap(ports(), store, std::move(journal), std::move(record), leave);
    if (entry == Entry::fresh) swap.counters_before = Swap::CountersBefore{};
    REQUIRE(run(swap, entry, {}));
    last = swap.record;
  }

  void ask(const JobControl& control) { REQUIRE(store.change_control(job_id, control)); }

  // As `poolshift status` shows it; null before there is any.
  json progress() const {
    const auto file = world.files.find("/state/jobs/" + job_id + ".progress");
    return file == world.files.end() ? json() : json::parse(file->second.content);
  }
  std::string step() const { return progress().is_null() ? "" : progress()["step"].get<std::string>(); }

  Ports ports() { return {*hypervisor, *storage, *system}; }

  FakeWorld world;
  std::unique_ptr<Hypervisor> hypervisor = world.hypervisor();
  std::unique_ptr<Storage> storage = world.storage();
  std::unique_ptr<System> system = world.system();
  JobStore store{*system, "/state"};
  fakes::FakeDomain* domain = nullptr;
  SwapRequest request;
  std::function<void()> meanwhile;  // before each call of a port
  std::atomic<bool> leave{false};
  std::string job_id;
  JobRecord last;

 private:
  bool happening_ = false;
};

}  // namespace

TEST_CASE("an offload that is held back hears what it is asked within a second") {
  enum class Asked { cancel, leave };
  for (const auto asked : {Asked::cancel, Asked::leave}) {
    Stage stage(Engine::handover);
    stage.request.bandwidth_bytes_per_s = kSlow;
    std::int64_t asked_ms = -1;
    stage.meanwhile = [&] {
      if (asked_ms >= 0 || stage.step() != "hydrating") return;
      asked_ms = stage.world.now_ms;
      if (asked == Asked::cancel) stage.ask({true, std::nullopt});
      if (asked == Asked::leave) stage.leave = true;
    };
    stage.swap();
    REQUIRE(asked_ms >= 0);
    CHECK(stage.world.now_ms - asked_ms <= kPromisedMs + kCallsMs);
    CHECK(stage.last.phase == (asked == Asked::cancel ? Phase::held_on_target : Phase::hydrate));
    CHECK(stage.last.guest_on == GuestOn::target);

    stage.meanwhile = nullptr;
    stage.ask({false, 0});
    stage.recover();
    CHECK(stage.last.phase == Phase::done);
  }
}

TEST_CASE("an offload listens every second, however slow the OSDs are") {
  Stage stage(Engine::handover);
  stage.world.fill(*stage.domain, "vda", 2'000);
  stage.world.offload_ms = 400;  // for as many objects as are in flight
  std::int64_t last_ms = -1;
  std::int64_t longest_ms = 0;
  stage.meanwhile = [&] {
    if (stage.step() != "hydrating") return;
    if (last_ms >= 0) longest_ms = std::max(longest_ms, stage.world.now_ms - last_ms);
    last_ms = stage.world.now_ms;
  };
  stage.swap();
  REQUIRE(stage.last.phase == Phase::done);
  REQUIRE(stage.last.copied_bytes > 100 * kObjectBytes);
  CHECK(longest_ms >= stage.world.offload_ms);
  CHECK(longest_ms <= kPromisedMs);
}

TEST_CASE("an offload is held back as long as its limit says, and not when the limit goes") {
  Stage stage(Engine::handover);
  stage.request.bandwidth_bytes_per_s = kSlow;
  std::int64_t began_ms = -1;
  SECTION("the limit stays") {
    stage.meanwhile = [&] {
      if (began_ms < 0 && stage.step() == "hydrating") began_ms = stage.world.now_ms;
    };
    stage.swap();
    REQUIRE(stage.last.phase == Phase::done);
    REQUIRE(stage.last.copied_bytes > kObjectBytes);
    const auto took_ms = static_cast<std::uint64_t>(stage.world.now_ms - began_ms);
    CHECK(took_ms + 1'000 >= stage.last.copied_bytes * 1'000 / kSlow);
  }
  SECTION("it goes while it is waited for") {
    stage.meanwhile = [&] {
      if (began_ms >= 0 || stage.step() != "hydrating") return;
      began_ms = stage.world.now_ms;
      stage.ask({false, 0});
    };
    stage.swap();
    REQUIRE(stage.last.phase == Phase::done);
    CHECK(stage.world.now_ms - began_ms < 10 * kPromisedMs);
  }
  SECTION("it comes while a batch without one is copied") {
    stage.request.bandwidth_bytes_per_s = 0;
    stage.meanwhile = [&] {
      if (began_ms >= 0 || stage.step() != "switching to the target") return;
      began_ms = stage.world.now_ms;
      stage.ask({false, kSlow});
    };
    stage.swap();
    REQUIRE(stage.last.phase == Phase::done);
    CHECK(stage.world.now_ms - began_ms > 60 * kPromisedMs);
  }
}

TEST_CASE("a copy that is taken up gets the limit that is wanted, also the first one") {
  constexpr std::uint64_t kFirst = 4'000;
  constexpr std::uint64_t kSecond = 8'000;
  Stage stage(Engine::mirror);
  stage.request.bandwidth_bytes_per_s = kFirst;
  const auto limit_of_copy = [&]() -> std::uint64_t {
    const auto& mirror = stage.domain->disks.front().mirror;
    return mirror ? mirror->options.bandwidth_bytes_per_s : 0;
  };
  stage.meanwhile = [&] {
    if (limit_of_copy() == kFirst) stage.ask({false, kSecond});
    if (limit_of_copy() == kSecond) stage.leave = true;
  };
  stage.swap();
  REQUIRE(stage.last.phase == Phase::copy);
  REQUIRE(limit_of_copy() == kSecond);

  stage.meanwhile = nullptr;
  stage.ask({false, kFirst});
  bool has_first = false;
  const auto taken_up_ms = stage.world.now_ms;
  stage.meanwhile = [&] {
    has_first = limit_of_copy() == kFirst;
    if (has_first || stage.world.now_ms - taken_up_ms > 10 * kPromisedMs) stage.leave = true;
  };
  stage.recover();
  CHECK(has_first);
}

TEST_CASE("a limit that is set before the copy starts is the one it starts with") {
  constexpr std::uint64_t kWanted = 16'000'000;
  Stage stage(Engine::mirror);
  stage.request.bandwidth_bytes_per_s = 1;
  bool asked = false;
  stage.meanwhile = [&] {
    // As soon as there is a job, and its journal is not being made.
    if (!asked && !stage.job_id.empty()) asked = stage.store.change_control(stage.job_id, {false, kWanted}).ok();
  };
  stage.swap();
  REQUIRE(asked);
  REQUIRE(stage.domain->disks.front().latest_mirror);
  CHECK(stage.domain->disks.front().latest_mirror->bandwidth_bytes_per_s == kWanted);
}

TEST_CASE("a flatten shows bytes and no rate, and no limit can be set while it runs") {
  Stage stage(Engine::handover);
  stage.request.hydration = Hydration::flatten;
  bool shown = false;
  stage.meanwhile = [&] {
    const auto progress = stage.progress();
    if (shown || stage.step() != "flattening" || progress["total_bytes"] == 0) return;
    shown = true;
    const auto objects = FakeWorld::objects_of_parent(*stage.world.image(kTarget));
    CHECK(progress["total_bytes"] == objects * kObjectBytes);
    CHECK(progress["done_bytes"].get<std::uint64_t>() % kObjectBytes == 0);
    CHECK(progress["bytes_per_s"] == 0);
    stage.leave = true;
  };
  stage.swap();
  REQUIRE(shown);
  REQUIRE(stage.last.phase == Phase::hydrate);
  stage.meanwhile = nullptr;

  HostOptions options;
  options.state_dir = "/state";
  Host host(options, {stage.world.hypervisor(), stage.world.storage(), stage.world.system(),
                      []() -> std::unique_ptr<DoneSignal> { return std::make_unique<Flag>(); }});
  const auto refused = host.set_bandwidth(stage.job_id, kSlow, nullptr);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == ErrorCode::refused);
  CHECK(refused.error().message.find("flattens its target") != std::string::npos);
  CHECK_FALSE(stage.store.control(stage.job_id)->bandwidth_bytes_per_s.has_value());
  CHECK(host.set_bandwidth(stage.job_id, 0, nullptr));
}

TEST_CASE("an offload that has to flatten after all says that its limit did not hold") {
  Stage stage(Engine::handover);
  stage.request.bandwidth_bytes_per_s = kSlow;
  bool flattening = false;
  stage.meanwhile = [&] {
    // Somebody takes a snapshot of the target before it gets its data.
    auto* target = stage.world.image(kTarget);
    const bool is_ours = target != nullptr && !target->parent.empty();
    if (is_ours && target->snapshots.empty() && !flattening) target->snapshots.emplace_back("theirs");
    if (flattening || stage.step() != "flattening") return;
    flattening = true;
    const auto seen = stage.store.look_at(stage.job_id);
    REQUIRE(seen);
    CHECK(seen->record.flattening);  // what `set` goes by
  };
  stage.swap();
  REQUIRE(flattening);
  CHECK(stage.last.phase == Phase::done);
  REQUIRE(stage.last.notes.size() == 1);
  CHECK(stage.last.notes.front().find(fmt::format("the limit of {} bytes/s did not hold", kSlow)) == 0);
}

}  // namespace poolshift
