// A guest whose image is in the trash comes home with all that it wrote, whenever a rescue is interrupted.
#include <catch2/catch.hpp>

#include "engine/host.h"
#include "fakes/fake_world.h"
#include "flow/rescue.h"

namespace poolshift {

using fakes::FakeWorld;

namespace {

const ImageName kSource{"volumes-hdd", "", "volume"};
const ImageName kTarget{"volumes-ssd", "", "volume"};
constexpr std::uint64_t kBlocks = 64;

// As Cinder's driver leaves it: the copy has the volume's name, the image that the guest uses is in the trash.
struct Setting {
  Setting() {
    world.add_image(kSource, kBlocks * fakes::kBlockBytes);
    domain = &world.add_domain("guest", {FakeWorld::disk_on("vda", kSource)});
    world.fill(*domain, "vda", 8);
    auto& copy = world.add_image(kTarget, kBlocks * fakes::kBlockBytes);
    copy.blocks = world.image(kSource)->blocks;
    copy.spec.metadata = {{"owner", "cinder"}};
    world.fill(*domain, "vda", 16);
    acknowledged = domain->disks.front().acknowledged;
    auto in_use = world.images.extract(kSource);
    world.trash.emplace_back(kSource, std::move(in_use.mapped()));
    request.domain = "guest";
    request.disk = "vda";
    request.target = kTarget;
  }

  Result<Rescue> plan() {
    JobStore store(*system, "/state");
    return plan_rescue(ports(), store, request, "");
  }
  Status rescue_now() {
    const auto found = plan();
    if (!found) return found.error();
    return make_ready(ports(), *found);
  }
  Ports ports() { return {*hypervisor, *storage, *system}; }

  void check_ready_for_swap() {
    REQUIRE(world.image(kSource) != nullptr);
    for (const auto& [block, stamp] : acknowledged) CHECK(world.read(kSource, block) == stamp);
    CHECK(world.trash.empty());
    REQUIRE(world.image(kTarget) != nullptr);
    CHECK(world.image(kTarget)->blocks.empty());
    CHECK(world.image(kTarget)->spec.metadata == std::map<std::string, std::string>{{"owner", "cinder"}});
    REQUIRE(world.image(stale_name(kTarget)) != nullptr);
    CHECK(world.image(stale_name(kTarget))->blocks.size() == 8);
    CHECK(world.images.size() == 3);
  }

  void check_refused(const std::string& words) {
    const auto images = world.images.size();
    const auto trashed = world.trash.size();
    const auto refused = rescue_now();
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == ErrorCode::refused);
    CHECK(refused.error().message.find(words) != std::string::npos);
    CHECK_FALSE(refused.error().advice.empty());
    CHECK(world.images.size() == images);
    CHECK(world.trash.size() == trashed);
  }

  FakeWorld world;
  fakes::FakeDomain* domain;
  std::map<std::uint64_t, std::uint64_t> acknowledged;
  SwapRequest request;
  std::unique_ptr<Hypervisor> hypervisor = world.hypervisor();
  std::unique_ptr<Storage> storage = world.storage();
  std::unique_ptr<System> system = world.system();
};

}  // namespace

TEST_CASE("a guest whose image is in the trash is made ready to come home") {
  Setting setting;
  const auto plan = setting.plan();
  REQUIRE(plan);
  CHECK(plan->trash_id == setting.world.trash.front().second.id);
  CHECK(plan->set_aside);
  CHECK(plan->create_target);
  CHECK(setting.world.trash.size() == 1);
  REQUIRE(setting.rescue_now());
  setting.check_ready_for_swap();
  const auto again = setting.plan();
  REQUIRE(again);
  CHECK(again->trash_id.empty());
  CHECK_FALSE(again->set_aside);
  CHECK_FALSE(again->create_target);
}

TEST_CASE("a rescue that dies at any call goes on when it is run again") {
  bool died = true;
  std::uint64_t deaths = 0;
  for (std::uint64_t call = 1; died; ++call) {
    for (const auto when : {FakeWorld::CrashWhen::before, FakeWorld::CrashWhen::after}) {
      INFO("call " << call);
      Setting setting;
      setting.world.crash_at(setting.world.calls() + call, when);
      died = false;
      try {
        const auto rescued = setting.rescue_now();
        CHECK(rescued);
      } catch (const fakes::Crash&) {
        died = true;
        ++deaths;
        setting.world.process_dies();
      }
      if (died) REQUIRE(setting.rescue_now());
      setting.check_ready_for_swap();
    }
  }
  CHECK(deaths > 20);
}

TEST_CASE("a larger disk gets a larger target") {
  Setting setting;
  setting.world.trash.front().second.spec.size_bytes *= 2;
  REQUIRE(setting.rescue_now());
  CHECK(setting.world.image(kTarget)->spec.size_bytes == 2 * kBlocks * fakes::kBlockBytes);
}

TEST_CASE("a rescue that is not clear is refused") {
  Setting setting;
  SECTION("the guest is off") {
    setting.world.kill_qemu(*setting.domain);
    setting.check_refused("is shut off");
  }
  SECTION("no such disk") {
    setting.request.disk = "vdz";
    setting.check_refused("has no RBD disk 'vdz'");
  }
  SECTION("another source is meant") {
    setting.request.source = ImageName{"volumes-hdd", "", "other"};
    setting.check_refused("the request names volumes-hdd/other");
  }
  SECTION("the guest is there already") {
    setting.request.target = kSource;
    setting.check_refused("names volumes-hdd/volume already");
  }
  SECTION("nothing in the trash is open") {
    setting.world.trash.front().second.watchers.clear();
    setting.check_refused("0 of the 1 images in the trash");
  }
  SECTION("two in the trash are open") {
    auto other = setting.world.trash.front();
    other.second.id = "another";
    setting.world.trash.push_back(other);
    setting.check_refused("2 of the 2 images in the trash");
  }
  SECTION("two clients have it open") {
    setting.world.trash.front().second.watchers["somebody"] = -1;
    setting.check_refused("is open in 2 clients");
  }
  SECTION("its name is taken") {
    setting.world.add_image(kSource, fakes::kBlockBytes);
    setting.check_refused("another image has its name");
  }
  SECTION("no target") {
    setting.request.target.image = "nothing";
    setting.check_refused("target volumes-ssd/nothing does not exist");
  }
  SECTION("somebody has the target open") {
    setting.world.image(kTarget)->watchers["somebody"] = -1;
    setting.check_refused("is open in somebody");
  }
  SECTION("the target has snapshots") {
    setting.world.image(kTarget)->snapshots = {"backup"};
    setting.check_refused("has snapshots");
  }
  SECTION("two copies hold data") {
    setting.world.add_image(stale_name(kTarget), fakes::kBlockBytes);
    setting.check_refused("hold data");
  }
}

TEST_CASE("doctor finds a guest whose image is in the trash") {
  Setting setting;
  HostOptions options;
  options.state_dir = "/state";
  Host host(options, HostPorts{setting.world.hypervisor(), setting.world.storage(), setting.world.system(), nullptr});
  REQUIRE(host.open());
  const auto sick = host.doctor();
  CHECK(sick.result == POOLSHIFT_HELD);
  CHECK(sick.json["findings"].back()["name"] == "image_in_trash");
  const auto looked = host.rescue(setting.request, true);
  REQUIRE(looked);
  CHECK(looked->at("done") == false);
  CHECK(setting.world.trash.size() == 1);
  const auto rescued = host.rescue(setting.request, false);
  REQUIRE(rescued);
  CHECK(rescued->at("sets_aside") == "volumes-ssd/poolshift.stale.volume");
  CHECK(host.doctor().result == POOLSHIFT_OK);
}

}  // namespace poolshift
