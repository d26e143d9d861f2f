// Each check of the validation on the fakes: what refuses, in which words, and that nothing is changed.
#include <algorithm>
#include <catch2/catch.hpp>
#include <functional>

#include "fakes/fake_world.h"
#include "flow/choose.h"
#include "flow/tag.h"
#include "flow/validate.h"

namespace poolshift {

using fakes::FakeWorld;

namespace {

const ImageName kSource{"volumes-hdd", "", "disk"};
const ImageName kTarget{"volumes-ssd", "", "disk"};
constexpr std::uint64_t kSizeBytes = 64 * fakes::kBlockBytes;

struct Setting {
  FakeWorld world;
  fakes::FakeDomain* domain;
  SwapRequest request;
  ValidateOptions options;

  Setting() {
    world.add_image(kSource, kSizeBytes);
    world.add_image(kTarget, kSizeBytes);
    domain = &world.add_domain("guest", {FakeWorld::disk_on("vda", kSource)});
    world.fill(*domain, "vda", 8);
    world.files["/guardian"].content = "a program";
    options.overlay_dir = "/state/overlays";
    options.guardian = "/guardian";
    request.domain = "guest";
    request.disk = "vda";
    request.target = kTarget;
  }

  fakes::FakeImage& source() { return *world.image(kSource); }
  fakes::FakeImage& target() { return *world.image(kTarget); }
  fakes::FakeDisk& disk() { return domain->disks.front(); }
  Pool& pool() { return world.pools.at("volumes-ssd").pool; }

  Result<Validation> validate_now() {
    auto hypervisor = world.hypervisor();
    auto storage = world.storage();
    auto system = world.system();
    JobStore store(*system, "/state");
    return validate({*hypervisor, *storage, *system}, store, request, options);
  }
};

struct Refusal {
  const char* check;
  const char* words;  // part of what was found
  std::function<void(Setting&)> arrange;
};

const Refusal kRefusals[] = {
    {"domain", "does not exist", [](Setting& s) { s.request.domain = "nobody"; }},
    {"saved_state", "with a saved state",
     [](Setting& s) {
       s.world.shut_down(*s.domain);
       s.domain->has_saved_state = true;
     }},
    {"offline", "is shut off",
     [](Setting& s) {
       s.world.shut_down(*s.domain);
       s.request.engine = Engine::mirror;
     }},
    {"source_watchers", "expected none", [](Setting& s) { s.world.kill_qemu(*s.domain); }},
    {"disk", "has no disk 'vdz'", [](Setting& s) { s.request.disk = "vdz"; }},
    {"disk", "not an RBD image", [](Setting& s) { s.disk().shown.image.reset(); }},
    {"disk_xml", "has <slices> in <source>, which PoolShift does not support",
     [](Setting& s) { s.disk().shown.unsupported_parts = {"<slices> in <source>"}; }},
    {"disk_source", "the request names volumes-hdd/other",
     [](Setting& s) {
       s.request.source = ImageName{"volumes-hdd", "", "other"};
     }},
    {"shareable", "<shareable/>", [](Setting& s) { s.disk().shown.shareable = true; }},
    {"read_only", "is read-only", [](Setting& s) { s.disk().shown.read_only = true; }},
    {"encryption", "is encrypted", [](Setting& s) { s.disk().shown.encrypted = true; }},
    {"overlay", "has a backing file", [](Setting& s) { s.disk().shown.has_overlay = true; }},
    {"block_job", "has a block job", [](Setting& s) { s.disk().shown.other_block_job = true; }},
    {"other_domains", "is also disk 'vdb' of domain 'other'",
     [](Setting& s) { s.world.add_domain("other", {FakeWorld::disk_on("vdb", kSource)}); }},
    {"other_domains", "target volumes-ssd/disk is disk 'vdb' of domain 'other'",
     [](Setting& s) { s.world.add_domain("other", {FakeWorld::disk_on("vdb", kTarget)}); }},
    {"cluster", "refuses user", [](Setting& s) { s.world.secrets["secret"] = "wrong"; }},
    {"cluster", "does not exist", [](Setting& s) { s.world.secrets.clear(); }},
    {"cluster", "would use cluster",
     [](Setting& s) {
       s.world.fsid_by_conf["/other.conf"] = "another-fsid";
       s.options.ceph_conf = "/other.conf";
     }},
    {"cluster", "the cluster of the target is another-fsid",
     [](Setting& s) {
       s.world.fsid_by_conf["/other.conf"] = "another-fsid";
       s.request.target_access = ClusterAccess{{}, "cinder", "secret", "", "/other.conf"};
     }},
    {"source_watchers", "open in 2 clients", [](Setting& s) { s.source().watchers["somebody"] = -1; }},
    {"source_watchers", "open in 0 clients", [](Setting& s) { s.source().watchers.clear(); }},
    {"source_migration", "rbd migration", [](Setting& s) { s.source().migrating = true; }},
    {"source_snapshots", "is to go to the trash",
     [](Setting& s) {
       s.source().snapshots = {"one"};
       s.request.source_after = SourceAfter::trash;
     }},
    {"target", "is the source", [](Setting& s) { s.request.target = kSource; }},
    {"rbd_namespace", "libvirt 9.0.0 cannot open", [](Setting& s) { s.request.target.rbd_namespace = "ns"; }},
    {"target_pool", "pool 'nowhere' does not exist", [](Setting& s) { s.request.target.pool = "nowhere"; }},
    {"target_pool", "no application 'rbd'", [](Setting& s) { s.pool().has_application_rbd = false; }},
    {"target_pool", "erasure-coded", [](Setting& s) { s.pool().erasure_coded = true; }},
    {"target_pool_flags", "'full'", [](Setting& s) { s.pool().full = true; }},
    {"target_pool_flags", "'backfillfull'", [](Setting& s) { s.pool().backfillfull = true; }},
    {"target_pool_flags", "'nearfull'", [](Setting& s) { s.pool().nearfull = true; }},
    {"target_rights", "may not write", [](Setting& s) { s.world.pools.at("volumes-ssd").allowed = false; }},
    {"health", "PG_AVAILABILITY",
     [](Setting& s) {
       s.world.health = {{"PG_AVAILABILITY", "HEALTH_WARN", "1 pg inactive", {}}};
     }},
    {"target", "does not exist", [](Setting& s) { s.request.target.image = "nothing"; }},
    {"target", "exists, and --create", [](Setting& s) { s.request.create = true; }},
    {"target_watchers", "open in 1 clients", [](Setting& s) { s.target().watchers["somebody"] = -1; }},
    {"target_locks", "locked by client.5", [](Setting& s) { s.target().lockers = {"client.5"}; }},
    {"target_size", "less than the source's", [](Setting& s) { s.target().spec.size_bytes -= 1; }},
    {"target_features", "0x40", [](Setting& s) { s.target().spec.features |= 0x40; }},
    {"target_state", "rbd migration", [](Setting& s) { s.target().migrating = true; }},
    {"target_state", "mirrored", [](Setting& s) { s.target().mirroring = true; }},
    {"target_state", "is a clone", [](Setting& s) { s.target().parent = "pool/image@snap"; }},
    {"target_state", "in a group", [](Setting& s) { s.target().group = "pool/group"; }},
    {"target_state", "has snapshots", [](Setting& s) { s.target().snapshots = {"one"}; }},
    {"target_state", "belongs to job", [](Setting& s) { s.target().spec.metadata[kJobKey] = "0123456789ab"; }},
    {"target_empty", "holds 4096 bytes", [](Setting& s) { s.target().blocks[0] = 1; }},
    {"target_data_pool", "without overwrites",
     [](Setting& s) {
       s.target().spec.data_pool = "ec";
       s.world.pools["ec"].pool = s.pool();
       s.world.pools["ec"].pool.erasure_coded = true;
     }},
    {"room", "has room for", [](Setting& s) { s.pool().max_avail_bytes = 8 * fakes::kBlockBytes; }},
    {"quota_bytes", "of its quota",
     [](Setting& s) {
       s.pool().quota_bytes = 8 * fakes::kBlockBytes;
       s.pool().quota_used_bytes = fakes::kBlockBytes;
     }},
    {"quota_bytes", "bytes that its quota allows",
     [](Setting& s) {
       s.pool().quota_bytes = 1;
       s.pool().quota_used_bytes = 1;
     }},
    {"quota_objects", "objects left",
     [](Setting& s) {
       s.pool().quota_objects = 10;
       s.pool().objects = 9;
     }},
    {"quota_objects", "objects that its quota allows",
     [](Setting& s) {
       s.pool().quota_objects = 10;
       s.pool().objects = 10;
     }},
    {"room_while_copying", "until it is made thin again",
     [](Setting& s) {
       s.request.engine = Engine::mirror;
       s.disk().shown.unmaps = false;
       for (auto* image : {&s.source(), &s.target()}) image->spec.size_bytes = 1ULL << 40;
       s.pool().max_avail_bytes = 1ULL << 39;
     }},
};

std::string state_of(FakeWorld& world) {
  std::string text;
  for (const auto& [name, image] : world.images) {
    text += to_string(name) + std::to_string(image.spec.size_bytes) + std::to_string(image.spec.metadata.size()) +
            std::to_string(image.blocks.size()) + std::to_string(image.watchers.size());
  }
  for (const auto& [path, file] : world.files) {
    if (!path.ends_with(".lock")) text += path;
  }
  return text + std::to_string(world.trash.size());
}

}  // namespace

TEST_CASE("a request that is right passes, and nothing is changed") {
  Setting setting;
  const auto before = state_of(setting.world);
  const auto validation = setting.validate_now();
  REQUIRE(validation);
  for (const auto& check : validation->checks) {
    INFO(check.name << ": " << check.found);
    CHECK(check.outcome == Check::Outcome::pass);
  }
  CHECK(validation->plan.source == kSource);
  CHECK(validation->plan.target == kTarget);
  CHECK(validation->plan.source_used_bytes == 8 * fakes::kBlockBytes);
  CHECK(validation->plan.source_watcher == FakeWorld::watcher_of(*setting.domain, kSource));
  CHECK(state_of(setting.world) == before);
}

TEST_CASE("each check refuses with its name, what was found and what to do, and nothing is changed") {
  for (const auto& refusal : kRefusals) {
    INFO(refusal.check << ": " << refusal.words);
    Setting setting;
    refusal.arrange(setting);
    const auto before = state_of(setting.world);
    const auto validation = setting.validate_now();
    REQUIRE(validation);
    CHECK(validation->refused());
    bool said = false;
    for (const auto& check : validation->checks) {
      if (check.outcome != Check::Outcome::refuse) continue;
      UNSCOPED_INFO(check.name << " refuses: " << check.found);
      CHECK_FALSE(check.advice.empty());
      said = said || (check.name == refusal.check && check.found.find(refusal.words) != std::string::npos);
    }
    CHECK(said);
    CHECK(state_of(setting.world) == before);
  }
}

// What stands in the way of a handover: refused when it was asked for; else mirror is taken, and the report says why.
const Refusal kObstacles[] = {
    {"handover_layering", "source volumes-hdd/disk cannot be cloned",
     [](Setting& s) { s.source().spec.features &= ~1U; }},
    {"handover_layering", "target volumes-ssd/disk cannot be a clone",
     [](Setting& s) { s.target().spec.features &= ~1U; }},
    {"handover_features", "mirrored or journaled", [](Setting& s) { s.source().spec.features |= 64; }},
    {"handover_features", "mirrored or journaled", [](Setting& s) { s.source().mirroring = true; }},
    {"handover_group", "is in group", [](Setting& s) { s.source().group = "volumes-hdd/group"; }},
    {"handover_format", "qcow2", [](Setting& s) { s.disk().shown.format = "qcow2"; }},
    {"handover_guardian", "guardian", [](Setting& s) { s.world.files.erase("/guardian"); }},
    {"handover_layout", "objects of different sizes",
     [](Setting& s) {
       s.request.hydration = Hydration::offload;
       s.target().spec.order = 23;
     }},
    {"handover_layout", "an image is striped",
     [](Setting& s) {
       s.request.hydration = Hydration::offload;
       s.source().spec.stripe_count = 4;
       s.source().spec.stripe_unit = 65536;
     }},
    {"handover_bandwidth", "cannot be limited",
     [](Setting& s) {
       s.request.bandwidth_bytes_per_s = 1'000'000;
       s.target().spec.order = 23;
     }},
};

TEST_CASE("what is left of a quota is enough for the objects that there will be") {
  Setting setting;
  constexpr std::uint64_t kMiB = 1ULL << 20;
  constexpr std::uint64_t kReserveBytes = 64 * kMiB;
  constexpr std::uint64_t kHeaderObjects = 4;
  for (auto* image : {&setting.source(), &setting.target()}) image->spec.size_bytes = 1ULL << 30;
  setting.source().blocks.clear();
  for (std::uint64_t object = 0; object < 10; ++object) setting.source().blocks[object * fakes::kObjectBlocks] = 1;
  const auto refused_with = [&](std::uint64_t left_bytes, std::uint64_t left_objects) -> std::string {
    setting.pool().quota_used_bytes = 1000;
    setting.pool().quota_bytes = setting.pool().quota_used_bytes + left_bytes;
    setting.pool().objects = 100;
    setting.pool().quota_objects = setting.pool().objects + left_objects;
    const auto validation = setting.validate_now();
    REQUIRE(validation);
    return validation->refused() ? validation->checks.back().name : "";
  };
  const auto enough_bytes = 10 * fakes::kBlockBytes + kReserveBytes;
  CHECK(refused_with(enough_bytes, 10 + kHeaderObjects).empty());
  CHECK(refused_with(enough_bytes - 1, 10 + kHeaderObjects) == "quota_bytes");
  CHECK(refused_with(enough_bytes, 10 + kHeaderObjects - 1) == "quota_objects");
  setting.target().spec.order = 21;  // each object may become two
  CHECK(refused_with(enough_bytes, 20 + kHeaderObjects).empty());
  CHECK(refused_with(enough_bytes, 20 + kHeaderObjects - 1) == "quota_objects");
  setting.target().spec.order = 23;  // each may lie at the end of a larger one
  const auto more_bytes = 10 * 8 * kMiB + kReserveBytes;
  CHECK(refused_with(more_bytes, 10 + kHeaderObjects).empty());
  CHECK(refused_with(more_bytes - 1, 10 + kHeaderObjects) == "quota_bytes");
}

TEST_CASE("what a handover needs") {
  for (const auto& obstacle : kObstacles) {
    INFO(obstacle.check << ": " << obstacle.words);
    Setting setting;
    obstacle.arrange(setting);
    const auto plain = setting.validate_now();
    REQUIRE(plain);
    CHECK_FALSE(plain->refused());
    CHECK(plain->plan.engine == kMirror);
    CHECK(plain->plan.engine_reason.find(obstacle.check) != std::string::npos);
    setting.request.engine = Engine::handover;
    const auto asked = setting.validate_now();
    REQUIRE(asked);
    CHECK(asked->refused());
    CHECK(asked->checks.back().name == obstacle.check);
    CHECK(asked->checks.back().found.find(obstacle.words) != std::string::npos);
    CHECK_FALSE(asked->checks.back().advice.empty());
  }
}

TEST_CASE("a limit that a handover can keep only in part decides for mirror, and is said where it was asked for") {
  Setting setting;
  setting.source().parent = "images/debian@base";
  setting.request.bandwidth_bytes_per_s = 1'000'000;
  const auto plain = setting.validate_now();
  REQUIRE(plain);
  CHECK_FALSE(plain->refused());
  CHECK(plain->plan.engine == kMirror);
  CHECK(plain->plan.engine_reason.find("handover_bandwidth") != std::string::npos);

  setting.request.engine = Engine::handover;
  const auto said_by = [](const Validation& validation) {
    return std::count_if(validation.checks.begin(), validation.checks.end(), [](const Check& check) {
      return check.name == "handover_bandwidth" && check.outcome == Check::Outcome::warn &&
             check.found.find("images/debian@base is flattened") != std::string::npos;
    });
  };
  const auto asked = setting.validate_now();
  REQUIRE(asked);
  CHECK_FALSE(asked->refused());
  CHECK(asked->plan.engine == kHandover);
  CHECK(said_by(*asked) == 1);

  setting.request.bandwidth_bytes_per_s = 0;
  const auto unlimited = setting.validate_now();
  REQUIRE(unlimited);
  CHECK(said_by(*unlimited) == 0);
}

TEST_CASE("a domain that is shut off is handed over, or refused") {
  Setting setting;
  setting.world.shut_down(*setting.domain);
  setting.world.files.erase("/guardian");  // nobody is to be suspended
  const auto before = state_of(setting.world);
  for (const auto engine : {Engine::automatic, Engine::handover}) {
    setting.request.engine = engine;
    const auto validation = setting.validate_now();
    REQUIRE(validation);
    REQUIRE_FALSE(validation->refused());
    CHECK(validation->plan.offline);
    CHECK(validation->plan.engine == kHandover);
    CHECK(validation->plan.engine_reason == "the domain is shut off");
    CHECK(validation->plan.source_watcher.empty());
    CHECK(validation->plan.overlay_path.empty());
    CHECK(state_of(setting.world) == before);
  }
  setting.request.engine = Engine::automatic;
  setting.source().spec.features &= ~1U;
  const auto refused = setting.validate_now();
  REQUIRE(refused);
  CHECK(refused->refused());
  CHECK(refused->checks.back().name == "handover_layering");
  CHECK(refused->checks.back().advice.find("engine mirror") != std::string::npos);
}

TEST_CASE("the engine and how the target gets its data") {
  Setting setting;
  CHECK(setting.validate_now()->plan.engine == kMirror);
  CHECK(setting.validate_now()->plan.engine_reason.find("copied sooner") != std::string::npos);
  CHECK(setting.validate_now()->checks.back().outcome == Check::Outcome::pass);
  setting.request.engine = Engine::handover;
  CHECK(setting.validate_now()->plan.engine == kHandover);
  CHECK(setting.validate_now()->plan.hydration == Hydration::offload);
  setting.target().spec.order = 23;
  CHECK(setting.validate_now()->plan.hydration == Hydration::flatten);
  CHECK(setting.validate_now()->plan.hydration_reason == "source and target have objects of different sizes");
  setting.target().spec.order = setting.source().spec.order;
  setting.request.hydration = Hydration::flatten;
  CHECK(setting.validate_now()->plan.hydration == Hydration::flatten);
  CHECK(setting.validate_now()->plan.hydration_reason == "asked for");
  setting.request.engine = Engine::mirror;
  CHECK(setting.validate_now()->plan.engine == kMirror);
  CHECK(setting.validate_now()->plan.engine_reason == "asked for");
}

TEST_CASE("which engine, and whether an object map is rebuilt, by size") {
  constexpr std::uint64_t kGiB = 1ULL << 30;
  CHECK_FALSE(why_mirror(kGiB, 4 * kGiB).empty());
  CHECK(why_mirror(kGiB, 500 * kGiB).empty());
  CHECK(why_mirror(2 * kGiB, 4 * kGiB).empty());
  CHECK(rebuild_is_shorter(kGiB, 4 * kGiB));
  CHECK(rebuild_is_shorter(2 * kGiB, 500 * kGiB));
  CHECK_FALSE(rebuild_is_shorter(kGiB, 500 * kGiB));
}

TEST_CASE("a created target gets the source's layout") {
  Setting setting;
  setting.request.create = true;
  setting.request.target.image = "created";
  setting.source().spec.order = 20;
  setting.source().spec.features |= 2 | 128;  // striping and data pool follow from the layout
  setting.source().spec.stripe_unit = 65536;
  setting.source().spec.stripe_count = 4;
  setting.source().spec.data_pool = "ec";
  setting.source().spec.metadata = {{"owner", "somebody"}, {"poolshift.job", "old"}};
  const auto validation = setting.validate_now();
  REQUIRE(validation);
  REQUIRE_FALSE(validation->refused());
  const auto& spec = validation->plan.target_spec;
  CHECK(spec.size_bytes == kSizeBytes);
  CHECK(spec.order == 20);
  CHECK(spec.features == 61);
  CHECK(spec.stripe_unit == 65536);
  CHECK(spec.stripe_count == 4);
  CHECK(spec.data_pool.empty());
  CHECK(spec.metadata == std::map<std::string, std::string>{{"owner", "somebody"}});
}

TEST_CASE("when nobody answers, validation fails instead of refusing") {
  Setting hypervisor_away;
  hypervisor_away.world.hypervisor_away_until_ms = 1'000'000;
  CHECK(hypervisor_away.validate_now().error().code == ErrorCode::unreachable);
  Setting cluster_away;
  cluster_away.world.cluster_away_until_ms = 1'000'000;
  CHECK(cluster_away.validate_now().error().code == ErrorCode::unreachable);
}

}  // namespace poolshift
