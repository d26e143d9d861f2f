// What the library finds wrong with a node.
#include <catch2/catch.hpp>

#include "base/paths.h"
#include "engine/doctor.h"
#include "fakes/fake_world.h"
#include "findings.h"

namespace poolshift {

using fakes::FakeWorld;

namespace {

const ImageName kSource{"volumes-hdd", "", "disk"};
constexpr std::int64_t kHourMs = 3'600'000;

// A node on which all is well.
struct Node {
  Node() {
    world.add_image(kSource, 64 * fakes::kBlockBytes);
    domain = &world.add_domain("guest", {FakeWorld::disk_on("vda", kSource)});
    world.files["/state/overlays/.keep"];
  }

  Findings look() {
    hypervisor = world.hypervisor();
    storage = world.storage();
    system = world.system();
    return look_at_node({*hypervisor, *storage, *system}, {"/state", "/state/overlays", kGuardianPath, "", patience_ms},
                        jobs);
  }

  void add_job(Phase phase, GuestOn guest_on, bool running) {
    JobRecord record;
    record.job_id = "0123456789ab";
    record.domain_name = "guest";
    record.disk = "vda";
    record.phase = phase;
    record.guest_on = guest_on;
    record.changed_wall_ms = world.system()->wall_clock_ms() - 3 * kHourMs;
    jobs.push_back({record, running, std::nullopt});
  }

  FakeWorld world;
  fakes::FakeDomain* domain;
  std::vector<JobStore::Seen> jobs;
  std::int64_t patience_ms = 60'000;
  std::unique_ptr<Hypervisor> hypervisor;
  std::unique_ptr<Storage> storage;
  std::unique_ptr<System> system;
};

// Nothing is worse than information, but for these.
void check_rest_is_well(const Findings& findings, const std::string& but = "") {
  for (const auto& each : findings) {
    if (each.name == but) continue;
    INFO(each.name << ": " << each.found);
    CHECK(each.severity < Severity::warn);
  }
}

}  // namespace

TEST_CASE("of a node on which all is well nothing is said to be wrong") {
  Node node;
  const auto findings = node.look();
  check_rest_is_well(findings);
  for (const auto* name :
       {"librbd", "libvirt", "qemu", "state_dir", "overlay_dir", "guardian", "qemu_img", "jobs", "cluster", "pool"}) {
    CHECK(only(findings, name).severity == Severity::pass);
  }
}

TEST_CASE("a libvirtd that does not answer is a failure, and no cluster is asked") {
  Node node;
  node.world.hypervisor_away_until_ms = 1'000'000'000;
  const auto findings = node.look();
  CHECK(only(findings, "libvirt").severity == Severity::fail);
  CHECK(named(findings, "cluster").empty());
}

TEST_CASE("each feature that the versions do not have is named") {
  const auto names = [](const HypervisorVersions& versions, const std::string& librbd) {
    std::vector<std::pair<std::string, Severity>> found;
    for (const auto& each : lacking_features(versions, librbd)) {
      CHECK_FALSE(each.advice.empty());
      found.emplace_back(each.name, each.severity);
    }
    return found;
  };
  using Names = std::vector<std::pair<std::string, Severity>>;
  CHECK(names({"12.2.0", "10.1.0", ""}, "1.20.0").empty());
  CHECK(names({"11.6.0", "10.0.9", ""}, "1.16.0") == Names{{"feature_thin", Severity::info}});
  CHECK(names({"11.5.0", "10.1.0", ""}, "1.15.0") ==
        Names{{"feature_handover", Severity::info}, {"feature_namespace", Severity::info}});
  CHECK(names({"7.0.0", "10.1.0", ""}, "1.16.0") ==
        Names{{"feature_copy", Severity::warn}, {"feature_namespace", Severity::info}});
  CHECK(names({"6.4.0", "4.2.0", ""}, "1.16.0") == Names{{"feature_copy", Severity::warn},
                                                         {"feature_hook", Severity::info},
                                                         {"feature_namespace", Severity::info},
                                                         {"feature_thin", Severity::info}});
  CHECK(names({"5.10.0", "4.1.0", ""}, "1.16.0").front() == Names::value_type{"feature_copy", Severity::fail});
  CHECK(names({"8.0.0", "4.1.0", ""}, "1.16.0").front() == Names::value_type{"feature_copy", Severity::fail});
}

TEST_CASE("a version that cannot be read is taken for a new one") {
  CHECK(lacking_features({"next", "", ""}, "squid").empty());
}

TEST_CASE("a folder that every user may write to is a failure") {
  for (const auto* path : {"/state", "/state/jobs", "/state/overlays"}) {
    Node node;
    node.world.facts[path] = {FileFacts::Kind::folder, 0, 0, 0777, 0, ""};
    const auto findings = node.look();
    const auto found = only(findings, "state_dir");
    CHECK(found.severity == Severity::fail);
    CHECK(says(found, path));
    check_rest_is_well(findings, "state_dir");
  }
}

TEST_CASE("overlays that QEMU cannot reach are a failure") {
  Node node;
  node.world.impassable.insert("/state/overlays");
  CHECK(only(node.look(), "overlay_dir").severity == Severity::fail);
  node.world.files.clear();
  CHECK(only(node.look(), "overlay_dir").severity == Severity::info);
}

TEST_CASE("the guardian is there, and of the library's version") {
  Node node;
  node.world.program_versions[kGuardianPath] = "poolshift-guardian 0.0.1";
  auto found = only(node.look(), "guardian");
  CHECK(found.severity == Severity::warn);
  CHECK(says(found, "0.0.1"));
  node.world.program_versions.erase(kGuardianPath);
  found = only(node.look(), "guardian");
  CHECK(found.severity == Severity::fail);
  CHECK(says(found, kGuardianPath));
}

TEST_CASE("qemu-img is installed") {
  Node node;
  node.world.program_versions.erase("qemu-img");
  CHECK(only(node.look(), "qemu_img").severity == Severity::fail);
}

TEST_CASE("a held job and one whose process is gone are told apart") {
  Node node;
  node.add_job(Phase::held_on_target, GuestOn::target, false);
  auto found = only(node.look(), "job");
  CHECK(found.severity == Severity::fail);
  CHECK(says(found, "is held in phase 'held_on_target' for 3 h, guest on target"));
  CHECK_FALSE(found.advice.empty());
  node.jobs.clear();
  node.add_job(Phase::copy, GuestOn::source, false);
  found = only(node.look(), "job");
  CHECK(found.severity == Severity::fail);
  CHECK(says(found, "the process of job '0123456789ab'"));
  CHECK(says(found, "is gone; it is in phase 'copy' for 3 h, guest on source"));
  CHECK(found.advice.find("poolshift recover 0123456789ab") != std::string::npos);
}

TEST_CASE("jobs that run and that have ended are counted") {
  Node node;
  node.add_job(Phase::copy, GuestOn::source, true);
  node.add_job(Phase::done, GuestOn::target, false);
  node.add_job(Phase::undone, GuestOn::source, false);
  const auto findings = node.look();
  check_rest_is_well(findings);
  CHECK(only(findings, "jobs").found == "1 jobs are running, 2 have ended");
}

TEST_CASE("a cluster is asked once for each way to reach it") {
  Node node;
  node.world.add_image({"volumes-ssd", "", "other"}, fakes::kBlockBytes);
  node.world.add_domain("second", {FakeWorld::disk_on("vda", {"volumes-ssd", "", "other"})});
  CHECK(only(node.look(), "pool").found == "user 'cinder' may write to volumes-hdd, volumes-ssd");
  auto elsewhere = FakeWorld::disk_on("vda", kSource);
  elsewhere.shown.access.user = "glance";
  node.world.add_domain("third", {elsewhere});
  CHECK(named(node.look(), "cluster").size() == 2);
}

TEST_CASE("a wrong key is a failure that names the domains") {
  Node node;
  node.world.add_domain("second", {FakeWorld::disk_on("vda", kSource)});
  node.world.secrets["secret"] = "another";
  const auto found = only(node.look(), "cluster");
  CHECK(found.severity == Severity::fail);
  CHECK(says(found, "domain 'guest' and 1 more: "));
  CHECK(says(found, "refuses user 'cinder'"));
}

TEST_CASE("a pool that the user may not write to is a failure") {
  Node node;
  node.world.pools["volumes-hdd"].allowed = false;
  const auto findings = node.look();
  const auto found = only(findings, "pool");
  CHECK(found.severity == Severity::fail);
  CHECK(says(found, "user 'cinder': "));
  CHECK(says(found, "volumes-hdd"));
  check_rest_is_well(findings, "pool");
}

TEST_CASE("a pool that is full is a warning") {
  for (const auto flag : {&Pool::full, &Pool::backfillfull, &Pool::nearfull}) {
    Node node;
    node.world.pools["volumes-hdd"].pool.*flag = true;
    const auto findings = node.look();
    CHECK(only(findings, "pool").severity == Severity::warn);
    check_rest_is_well(findings, "pool");
  }
}

TEST_CASE("the health that matters for a swap is a warning, once for a cluster") {
  Node node;
  auto elsewhere = FakeWorld::disk_on("vda", kSource);
  elsewhere.shown.access.user = "glance";
  node.world.add_domain("second", {elsewhere});
  node.world.health = {{"POOL_NO_REDUNDANCY", "HEALTH_WARN", "1 pool has no replicas", {}}};
  CHECK(named(node.look(), "health").empty());
  node.world.health = {{"PG_AVAILABILITY", "HEALTH_WARN", "reduced", {}}};
  CHECK(only(node.look(), "health").severity == Severity::warn);
  node.world.health = {{"NEW_CHECK", "HEALTH_ERR", "broken", {}}};
  CHECK(says(only(node.look(), "health"), "NEW_CHECK: broken"));
}

TEST_CASE("clusters that do not answer cannot make the doctor wait for ever") {
  Node node;
  for (const auto* user : {"one", "two", "three"}) {
    auto disk = FakeWorld::disk_on("vda", kSource);
    disk.shown.access.user = user;
    node.world.add_domain(user, {disk});
  }
  node.patience_ms = 10'000;
  node.world.cluster_away_until_ms = 1'000'000'000;
  // Each of them takes its time, whichever call of it that is.
  for (std::uint64_t call = 1; call < 200; ++call) node.world.hang_at(call, 6'000);
  const auto found = named(node.look(), "cluster");
  REQUIRE(found.size() == 4);
  CHECK(found.front().severity == Severity::fail);
  CHECK(found.back().severity == Severity::warn);
  CHECK(says(found.back(), "was not asked: others took 10 s to answer"));
}

}  // namespace poolshift
