#include <algorithm>
#include <catch2/catch.hpp>

#include "checks.h"
#include "flow/guard.h"
#include "world.h"

namespace poolshift::contract {
namespace {

Domain domain_of(const std::string& name) {
  auto found = world().hypervisor().find_domain(name);
  if (!found) FAIL(found.error().message);
  return std::move(*found);
}

Disk disk_of(const std::string& guest, const std::string& target) {
  const auto domain = domain_of(guest);
  const auto* disk = domain.disk(target);
  if (disk == nullptr) FAIL("no disk " << target);
  return *disk;
}

MirrorOptions to(const ImageName& target) {
  MirrorOptions options;
  options.target = target;
  options.access = world().access();
  return options;
}

bool is_ready(const std::string& guest) {
  const auto disk = disk_of(guest, "vda");
  return disk.mirror && disk.mirror->ready;
}

bool has_no_mirror(const std::string& guest) { return !disk_of(guest, "vda").mirror; }

std::string new_overlay(std::uint64_t size_bytes) {
  const auto path = world().folder() + "/" + unique("overlay") + ".qcow2";
  const auto made = world().system().create_overlay(path, size_bytes);
  if (!made) FAIL(made.error().message);
  return path;
}

DiskCounters counters_of(const std::string& uuid) {
  const auto counters = world().hypervisor().disk_counters(uuid, "vda");
  if (!counters) FAIL(counters.error().message);
  return *counters;
}

bool writes_on(const std::string& uuid, std::uint64_t bytes) {
  const auto before = counters_of(uuid).written_bytes;
  return wait_until([&] { return counters_of(uuid).written_bytes >= before + bytes; });
}

// A step at each call, until the disk has no overlay any more.
bool overlay_comes_off(const std::string& guest, const std::string& uuid) {
  return wait_until([&] {
    const auto step = world().hypervisor().commit_overlay(uuid, "vda");
    if (!step) FAIL(step.error().message);
    return !disk_of(guest, "vda").has_overlay;
  });
}

}  // namespace

TEST_CASE("the hypervisor tells its versions", "[hypervisor]") {
  const auto versions = world().hypervisor().versions();
  REQUIRE_OK(versions);
  CHECK_FALSE(versions->libvirt.empty());
  CHECK_FALSE(versions->hypervisor.empty());
  CHECK_FALSE(versions->uri.empty());
}

TEST_CASE("a domain is described", "[hypervisor]") {
  auto& hypervisor = world().hypervisor();
  auto cluster = connect();
  const auto first = new_image(*cluster, world().pool(), 64 * kMiB);
  const auto second = new_image(*cluster, world().other_pool(), 64 * kMiB);
  const auto guest = world().start_guest(
      {{.target = "vda", .image = first}, {.target = "vdb", .image = second, .unmaps = true, .shareable = true}},
      Start::paused);

  const auto domain = domain_of(guest);
  CHECK(domain.name == guest);
  CHECK(domain.state == DomainState::paused);
  CHECK(domain.persistent);
  CHECK(domain_of(domain.uuid).name == guest);
  CHECK(domain.disk("vdz") == nullptr);

  REQUIRE(domain.disks.size() == 2);
  const auto& vda = domain.disks[0];
  CHECK(vda.target == "vda");
  CHECK(vda.image == first);
  CHECK(vda.access == world().access());
  CHECK(vda.described_source == "rbd:" + to_string(first));
  CHECK_FALSE(vda.shareable);
  CHECK_FALSE(vda.read_only);
  CHECK_FALSE(vda.encrypted);
  CHECK_FALSE(vda.unmaps);
  CHECK_FALSE(vda.has_overlay);
  CHECK_FALSE(vda.mirror);
  CHECK_FALSE(vda.other_block_job);
  const auto& vdb = domain.disks[1];
  CHECK(vdb.image == second);
  CHECK(vdb.shareable);
  CHECK(vdb.unmaps);
  REQUIRE(domain.persistent_disks.size() == 2);
  CHECK(domain.persistent_disks[0].image == first);

  const auto all = hypervisor.list_domains();
  REQUIRE_OK(all);
  CHECK(std::any_of(all->begin(), all->end(), [&](const Domain& other) { return other.uuid == domain.uuid; }));

  world().power_off(guest);
  const auto off = domain_of(guest);
  CHECK(off.state == DomainState::inactive);
  CHECK_FALSE(is_active(off));
  REQUIRE(off.disks.size() == 2);
  CHECK(off.disks[0].image == first);
}

TEST_CASE("a transient domain has no persistent disks and is gone when off", "[hypervisor]") {
  auto cluster = connect();
  const auto image = new_image(*cluster, world().pool(), 64 * kMiB);
  const auto guest = world().start_guest({{.target = "vda", .image = image}}, Start::transient);
  const auto domain = domain_of(guest);
  CHECK(domain.state == DomainState::running);
  CHECK_FALSE(domain.persistent);
  CHECK(domain.persistent_disks.empty());
  world().power_off(guest);
  CHECK_ERROR(world().hypervisor().find_domain(guest), ErrorCode::not_found);
}

TEST_CASE("unknown domains and disks are not found", "[hypervisor]") {
  auto& hypervisor = world().hypervisor();
  auto cluster = connect();
  const auto image = new_image(*cluster, world().pool(), 64 * kMiB);
  const auto uuid = domain_of(world().start_guest({{.target = "vda", .image = image}}, Start::paused)).uuid;
  const std::string nobody = "7b0f2e0e-0000-4000-8000-000000000000";

  CHECK_ERROR(hypervisor.find_domain("no such guest"), ErrorCode::not_found);
  for (const auto& [domain, disk] : {std::pair<std::string, std::string>{nobody, "vda"}, {uuid, "vdz"}}) {
    CHECK_ERROR(hypervisor.start_mirror(domain, disk, to(image)), ErrorCode::not_found);
    CHECK_ERROR(hypervisor.mirror_progress(domain, disk), ErrorCode::not_found);
    CHECK_ERROR(hypervisor.set_mirror_bandwidth(domain, disk, kMiB), ErrorCode::not_found);
    CHECK_ERROR(hypervisor.pivot_mirror(domain, disk), ErrorCode::not_found);
    CHECK_ERROR(hypervisor.cancel_mirror(domain, disk), ErrorCode::not_found);
    CHECK_ERROR(hypervisor.insert_overlay(domain, disk, "/nowhere"), ErrorCode::not_found);
    CHECK_ERROR(hypervisor.commit_overlay(domain, disk), ErrorCode::not_found);
    CHECK_ERROR(hypervisor.disk_counters(domain, disk), ErrorCode::not_found);
    CHECK_ERROR(hypervisor.write_limit(domain, disk), ErrorCode::not_found);
    CHECK_ERROR(hypervisor.set_write_limit(domain, disk, {}), ErrorCode::not_found);
    CHECK_ERROR(hypervisor.grow_disk(domain, disk, kGiB), ErrorCode::not_found);
  }
  CHECK_ERROR(hypervisor.suspend(nobody), ErrorCode::not_found);
  CHECK_ERROR(hypervisor.resume(nobody), ErrorCode::not_found);
  CHECK_ERROR(hypervisor.redefine_disk(nobody, "vda", image, world().access()), ErrorCode::not_found);
}

TEST_CASE("a secret's value is the key", "[hypervisor]") {
  auto& hypervisor = world().hypervisor();
  auto access = world().access();
  const auto by_uuid = hypervisor.secret_value(access);
  REQUIRE_OK(by_uuid);
  CHECK(*by_uuid == world().key());

  access.secret_uuid.clear();
  access.secret_usage = world().secret_usage();
  const auto by_usage = hypervisor.secret_value(access);
  REQUIRE_OK(by_usage);
  CHECK(*by_usage == world().key());

  access.secret_usage = "no such secret";
  CHECK_ERROR(hypervisor.secret_value(access), ErrorCode::not_found);
}

TEST_CASE("a copy becomes ready and is switched to", "[hypervisor]") {
  auto& hypervisor = world().hypervisor();
  auto cluster = connect();
  const auto source = new_image(*cluster, world().pool(), kGiB);
  const auto target = new_image(*cluster, world().other_pool(), kGiB);
  const bool unmaps = GENERATE(false, true);
  CAPTURE(unmaps);
  const auto guest =
      world().start_guest({{.target = "vda", .image = source, .unmaps = unmaps, .fill_bytes = 32 * kMiB}});
  const auto before = domain_of(guest);

  auto options = to(target);
  options.granularity_bytes = kMiB;
  options.buffer_bytes = 64 * kMiB;
  REQUIRE_OK(hypervisor.start_mirror(before.uuid, "vda", options));
  const auto copying = disk_of(guest, "vda");
  REQUIRE(copying.mirror);
  CHECK(copying.mirror->image == target);
  CHECK(copying.image == source);
  CHECK_FALSE(copying.other_block_job);
  CHECK_ERROR(hypervisor.start_mirror(before.uuid, "vda", options), ErrorCode::busy);

  REQUIRE(wait_until([&] { return is_ready(guest); }));
  const auto progress = hypervisor.mirror_progress(before.uuid, "vda");
  REQUIRE_OK(progress);
  REQUIRE(*progress);
  CHECK((*progress)->copied_bytes == (*progress)->total_bytes);
  CHECK((*progress)->highest_written_bytes >= 32 * kMiB);
  CHECK((*progress)->highest_written_bytes <= kGiB);
  CHECK(cluster->image(target)->watchers.size() == 1);

  REQUIRE_OK(hypervisor.pivot_mirror(before.uuid, "vda"));
  REQUIRE(wait_until([&] { return has_no_mirror(guest); }));
  const auto after = domain_of(guest);
  CHECK(after.disks[0].image == target);
  CHECK(after.disks[0].access == before.disks[0].access);
  CHECK(after.disks[0].unmaps == unmaps);
  CHECK_FALSE(after.disks[0].has_overlay);
  CHECK(after.persistent);
  REQUIRE(after.persistent_disks.size() == 1);
  CHECK(after.persistent_disks[0].image == target);
  CHECK(after.state == DomainState::running);
  CHECK(wait_until([&] { return cluster->image(source)->watchers.empty(); }));
  CHECK(cluster->image(target)->watchers.size() == 1);

  const auto none = hypervisor.mirror_progress(before.uuid, "vda");
  REQUIRE_OK(none);
  CHECK_FALSE(none->has_value());
  CHECK_ERROR(hypervisor.pivot_mirror(before.uuid, "vda"), ErrorCode::failed);
}

TEST_CASE("a copy that is not ready cannot be switched to, only cancelled", "[hypervisor]") {
  auto& hypervisor = world().hypervisor();
  auto cluster = connect();
  const auto source = new_image(*cluster, world().pool(), kGiB);
  const auto target = new_image(*cluster, world().other_pool(), kGiB);
  const auto guest = world().start_guest({{.target = "vda", .image = source, .fill_bytes = 64 * kMiB}});
  const auto uuid = domain_of(guest).uuid;

  auto options = to(target);
  options.bandwidth_bytes_per_s = 1000000;
  REQUIRE_OK(hypervisor.start_mirror(uuid, "vda", options));
  CHECK_ERROR(hypervisor.pivot_mirror(uuid, "vda"), ErrorCode::failed);
  CHECK_FALSE(is_ready(guest));

  SECTION("cancelled") {
    REQUIRE_OK(hypervisor.cancel_mirror(uuid, "vda"));
    REQUIRE(wait_until([&] { return has_no_mirror(guest); }));
    CHECK(disk_of(guest, "vda").image == source);
    CHECK(wait_until([&] { return cluster->image(target)->watchers.empty(); }));
    CHECK(cluster->image(source)->watchers.size() == 1);
    REQUIRE_OK(hypervisor.cancel_mirror(uuid, "vda"));
  }
  SECTION("ready in the end when the limit is lifted, and cancelled then") {
    REQUIRE_OK(hypervisor.set_mirror_bandwidth(uuid, "vda", 0));
    REQUIRE(wait_until([&] { return is_ready(guest); }));
    REQUIRE_OK(hypervisor.cancel_mirror(uuid, "vda"));
    REQUIRE(wait_until([&] { return has_no_mirror(guest); }));
    CHECK(disk_of(guest, "vda").image == source);
  }
  SECTION("gone with the domain") {
    world().power_off(guest);
    const auto domain = domain_of(guest);
    CHECK(domain.state == DomainState::inactive);
    CHECK(domain.disks[0].image == source);
    CHECK_FALSE(domain.disks[0].mirror);
    CHECK_ERROR(hypervisor.start_mirror(uuid, "vda", options), ErrorCode::failed);
    CHECK_ERROR(hypervisor.mirror_progress(uuid, "vda"), ErrorCode::failed);
    CHECK_ERROR(hypervisor.pivot_mirror(uuid, "vda"), ErrorCode::failed);
    CHECK_ERROR(hypervisor.disk_counters(uuid, "vda"), ErrorCode::failed);
    CHECK_ERROR(hypervisor.write_limit(uuid, "vda"), ErrorCode::failed);
  }
}

TEST_CASE("a copy onto an image that does not fit leaves nothing behind", "[hypervisor]") {
  auto& hypervisor = world().hypervisor();
  auto cluster = connect();
  const auto source = new_image(*cluster, world().pool(), kGiB);
  const auto smaller = new_image(*cluster, world().other_pool(), kGiB / 2);
  const auto guest = world().start_guest({{.target = "vda", .image = source}}, Start::paused);
  const auto uuid = domain_of(guest).uuid;

  CHECK_FALSE(hypervisor.start_mirror(uuid, "vda", to({world().other_pool(), "", "no-such-image"})));
  // QEMU finds out only when the job runs.
  if (hypervisor.start_mirror(uuid, "vda", to(smaller))) {
    CHECK(wait_until([&] { return has_no_mirror(guest); }));
  }
  CHECK(has_no_mirror(guest));
  CHECK(disk_of(guest, "vda").image == source);
  CHECK(wait_until([&] { return cluster->image(smaller)->watchers.empty(); }));
}

TEST_CASE("counters rise and limits are kept", "[hypervisor]") {
  auto& hypervisor = world().hypervisor();
  auto cluster = connect();
  const auto image = new_image(*cluster, world().pool(), kGiB);
  const auto guest = world().start_guest({{.target = "vda", .image = image, .fill_bytes = kMiB, .writes_per_s = 50}});
  const auto uuid = domain_of(guest).uuid;

  const auto first = hypervisor.disk_counters(uuid, "vda");
  REQUIRE_OK(first);
  CHECK(first->written_bytes >= kMiB);
  CHECK(first->write_requests > 0);
  CHECK(first->write_time_ns > 0);
  CHECK(wait_until([&] {
    const auto later = hypervisor.disk_counters(uuid, "vda");
    return later && later->written_bytes > first->written_bytes && later->write_requests > first->write_requests &&
           later->write_time_ns > first->write_time_ns;
  }));

  const auto none = hypervisor.write_limit(uuid, "vda");
  REQUIRE_OK(none);
  CHECK(*none == WriteLimit{});
  const WriteLimit write{.total_bytes_per_s = 0, .write_bytes_per_s = 5000000};
  REQUIRE_OK(hypervisor.set_write_limit(uuid, "vda", write));
  CHECK(*hypervisor.write_limit(uuid, "vda") == write);
  const WriteLimit total{.total_bytes_per_s = 6000000, .write_bytes_per_s = 0};
  REQUIRE_OK(hypervisor.set_write_limit(uuid, "vda", total));
  CHECK(*hypervisor.write_limit(uuid, "vda") == total);
  CHECK_FALSE(hypervisor.set_write_limit(uuid, "vda", {.total_bytes_per_s = 1000000, .write_bytes_per_s = 1000000}));
  CHECK(*hypervisor.write_limit(uuid, "vda") == total);
  REQUIRE_OK(hypervisor.set_write_limit(uuid, "vda", {}));
  CHECK(*hypervisor.write_limit(uuid, "vda") == WriteLimit{});
}

TEST_CASE("a disk grows under the guest", "[hypervisor]") {
  auto& hypervisor = world().hypervisor();
  auto cluster = connect();
  const auto image = new_image(*cluster, world().pool(), kGiB);
  const auto uuid = domain_of(world().start_guest({{.target = "vda", .image = image}})).uuid;
  REQUIRE_OK(hypervisor.grow_disk(uuid, "vda", kGiB));
  CHECK(cluster->image(image)->spec.size_bytes == kGiB);
  REQUIRE_OK(hypervisor.grow_disk(uuid, "vda", 2 * kGiB));
  CHECK(cluster->image(image)->spec.size_bytes == 2 * kGiB);
}

TEST_CASE("a suspended guest writes nothing until it is resumed", "[hypervisor]") {
  auto& hypervisor = world().hypervisor();
  auto cluster = connect();
  const auto image = new_image(*cluster, world().pool(), kGiB);
  const auto guest = world().start_guest({{.target = "vda", .image = image, .fill_bytes = kMiB, .writes_per_s = 50}});
  const auto uuid = domain_of(guest).uuid;
  REQUIRE_OK(hypervisor.resume(uuid));
  CHECK(domain_of(guest).state == DomainState::running);

  REQUIRE_OK(hypervisor.suspend(uuid));
  CHECK(domain_of(guest).state == DomainState::paused);
  REQUIRE_OK(hypervisor.suspend(uuid));
  CHECK(domain_of(guest).state == DomainState::paused);
  const auto paused = counters_of(uuid);
  world().system().sleep_ms(500);
  CHECK(counters_of(uuid).written_bytes == paused.written_bytes);
  CHECK(counters_of(uuid).write_requests == paused.write_requests);

  REQUIRE_OK(hypervisor.resume(uuid));
  REQUIRE_OK(hypervisor.resume(uuid));
  CHECK(domain_of(guest).state == DomainState::running);
  CHECK(writes_on(uuid, 1));

  world().power_off(guest);
  CHECK_ERROR(hypervisor.suspend(uuid), ErrorCode::failed);
  CHECK_ERROR(hypervisor.resume(uuid), ErrorCode::failed);
  CHECK_ERROR(hypervisor.insert_overlay(uuid, "vda", "/nowhere"), ErrorCode::failed);
  REQUIRE_OK(hypervisor.commit_overlay(uuid, "vda"));  // there is none
}

TEST_CASE("an overlay takes the guest's writes and brings them down", "[hypervisor]") {
  auto& hypervisor = world().hypervisor();
  auto cluster = connect();
  const auto image = new_image(*cluster, world().pool(), kGiB);
  const auto guest = world().start_guest({{.target = "vda", .image = image, .unmaps = true, .writes_per_s = 50}});
  const auto before = domain_of(guest);
  const auto& uuid = before.uuid;
  const auto overlay = new_overlay(kGiB);
  const auto watchers = cluster->image(image)->watchers;
  CHECK(watchers.size() == 1);
  REQUIRE_OK(hypervisor.commit_overlay(uuid, "vda"));  // there is none
  CHECK_ERROR(hypervisor.insert_overlay(uuid, "vda", world().folder() + "/no-such-file"), ErrorCode::failed);
  CHECK(disk_of(guest, "vda").image == image);

  REQUIRE_OK(hypervisor.insert_overlay(uuid, "vda", overlay));
  const auto with_overlay = domain_of(guest);
  CHECK(with_overlay.state == DomainState::running);
  for (const auto& disk : {with_overlay.disks.at(0), with_overlay.persistent_disks.at(0)}) {
    CHECK(disk.has_overlay);
    CHECK(disk.file_path == overlay);
    CHECK(disk.described_source == "file:" + overlay);
    CHECK_FALSE(disk.image);
    CHECK(disk.unmaps);
    CHECK_FALSE(disk.commits);
    CHECK_FALSE(disk.other_block_job);
    CHECK_FALSE(disk.mirror);
  }
  const auto empty_bytes = *world().system().file_bytes(overlay);
  const auto used_bytes = cluster->usage(image)->bytes;
  CHECK(writes_on(uuid, 256 * 1024));
  CHECK(*world().system().file_bytes(overlay) > empty_bytes);
  CHECK(cluster->usage(image)->bytes == used_bytes);
  CHECK(cluster->image(image)->watchers == watchers);

  const bool paused = GENERATE(false, true);
  CAPTURE(paused);
  if (paused) REQUIRE_OK(hypervisor.suspend(uuid));
  REQUIRE_OK(hypervisor.commit_overlay(uuid, "vda"));
  CHECK(disk_of(guest, "vda").commits);
  CHECK_FALSE(disk_of(guest, "vda").mirror);
  CHECK_FALSE(disk_of(guest, "vda").other_block_job);
  REQUIRE(overlay_comes_off(guest, uuid));
  const auto after = domain_of(guest);
  CHECK(after.state == (paused ? DomainState::paused : DomainState::running));
  for (const auto& disk : {after.disks.at(0), after.persistent_disks.at(0)}) {
    CHECK(disk.image == image);
    CHECK(disk.access == before.disks.at(0).access);
    CHECK(disk.file_path.empty());
    CHECK_FALSE(disk.has_overlay);
    CHECK_FALSE(disk.commits);
    CHECK(disk.unmaps);
  }
  CHECK(cluster->image(image)->watchers == watchers);
  CHECK(cluster->usage(image)->bytes > used_bytes);
  REQUIRE_OK(hypervisor.commit_overlay(uuid, "vda"));
  REQUIRE_OK(hypervisor.resume(uuid));
  CHECK(writes_on(uuid, 1));
}

TEST_CASE("a shallow copy onto a clone has nothing to copy", "[hypervisor]") {
  auto& hypervisor = world().hypervisor();
  auto cluster = connect();
  const auto source = new_image(*cluster, world().pool(), 256 * kMiB);
  const ImageName clone{world().other_pool(), "", unique("contract")};
  const auto guest = world().start_guest(
      {{.target = "vda", .image = source, .unmaps = true, .fill_bytes = 8 * kMiB, .writes_per_s = 50}});
  const auto before = domain_of(guest);
  const auto& uuid = before.uuid;
  const auto source_watchers = cluster->image(source)->watchers;
  const auto overlay = new_overlay(256 * kMiB);
  const auto empty_bytes = *world().system().file_bytes(overlay);

  REQUIRE_OK(hypervisor.suspend(uuid));
  REQUIRE_OK(cluster->create_snapshot(source, "one"));
  REQUIRE_OK(cluster->clone_image(source, "one", clone, cluster->image(source)->spec));
  REQUIRE_OK(hypervisor.insert_overlay(uuid, "vda", overlay));
  auto options = to(clone);
  options.shallow = true;
  REQUIRE_OK(hypervisor.start_mirror(uuid, "vda", options));
  REQUIRE(wait_until([&] { return is_ready(guest); }));
  const auto ready = disk_of(guest, "vda");
  CHECK(ready.mirror->image == clone);
  CHECK(ready.file_path == overlay);
  CHECK_FALSE(*cluster->has_own_data(clone));
  CHECK(cluster->usage(clone)->bytes == cluster->usage(source)->bytes);
  CHECK(cluster->image(clone)->watchers.size() == 1);
  CHECK(cluster->image(source)->watchers == source_watchers);
  CHECK(*world().system().file_bytes(overlay) == empty_bytes);
  CHECK_ERROR(hypervisor.commit_overlay(uuid, "vda"), ErrorCode::busy);
  CHECK_ERROR(cluster->remove_untouched_clone(clone), ErrorCode::busy);

  SECTION("switched to") {
    REQUIRE_OK(hypervisor.pivot_mirror(uuid, "vda"));
    REQUIRE(wait_until([&] { return has_no_mirror(guest); }));
    const auto after = domain_of(guest);
    CHECK(after.state == DomainState::paused);
    for (const auto& disk : {after.disks.at(0), after.persistent_disks.at(0)}) {
      CHECK(disk.image == clone);
      CHECK(disk.access == before.disks.at(0).access);
      CHECK(disk.file_path.empty());
      CHECK_FALSE(disk.has_overlay);
      CHECK(disk.unmaps);
    }
    CHECK(wait_until([&] { return cluster->image(source)->watchers.empty(); }));
    CHECK(cluster->image(clone)->watchers.size() == 1);
    REQUIRE_OK(hypervisor.resume(uuid));
    CHECK(writes_on(uuid, 1));
    CHECK(wait_until([&] { return *cluster->has_own_data(clone); }));
    world().power_off(guest);
    CHECK(domain_of(guest).disks.at(0).image == clone);
    CHECK(wait_until([&] { return cluster->image(clone)->watchers.empty(); }));
    CHECK_ERROR(cluster->remove_untouched_clone(clone), ErrorCode::refused);
  }
  SECTION("cancelled, and all is as it was") {
    REQUIRE_OK(hypervisor.cancel_mirror(uuid, "vda"));
    REQUIRE(wait_until([&] { return has_no_mirror(guest); }));
    CHECK(disk_of(guest, "vda").has_overlay);
    REQUIRE(overlay_comes_off(guest, uuid));
    CHECK(*world().system().file_bytes(overlay) == empty_bytes);
    REQUIRE_OK(hypervisor.resume(uuid));
    const auto after = domain_of(guest);
    CHECK(after.state == DomainState::running);
    CHECK(after.disks.at(0).image == source);
    CHECK(after.persistent_disks.at(0).image == source);
    CHECK(cluster->image(source)->watchers == source_watchers);
    CHECK(wait_until([&] { return cluster->image(clone)->watchers.empty(); }));
    REQUIRE_OK(cluster->remove_untouched_clone(clone));
    REQUIRE_OK(cluster->remove_snapshot(source, "one"));
    CHECK(writes_on(uuid, 1));
  }
}

TEST_CASE("without an overlay a shallow copy is a full one", "[hypervisor]") {
  auto& hypervisor = world().hypervisor();
  auto cluster = connect();
  const auto source = new_image(*cluster, world().pool(), 256 * kMiB);
  const auto target = new_image(*cluster, world().other_pool(), 256 * kMiB);
  const auto guest = world().start_guest({{.target = "vda", .image = source, .unmaps = true, .fill_bytes = 8 * kMiB}});
  auto options = to(target);
  options.shallow = true;
  REQUIRE_OK(hypervisor.start_mirror(domain_of(guest).uuid, "vda", options));
  REQUIRE(wait_until([&] { return is_ready(guest); }));
  CHECK(cluster->usage(target)->bytes == 8 * kMiB);
}

TEST_CASE("a guest that is off with its overlay is told of another image", "[hypervisor]") {
  auto& hypervisor = world().hypervisor();
  auto cluster = connect();
  const auto image = new_image(*cluster, world().pool(), 64 * kMiB);
  const auto other = new_image(*cluster, world().other_pool(), 64 * kMiB);
  const auto guest = world().start_guest({{.target = "vda", .image = image}}, Start::paused);
  const auto before = domain_of(guest);
  const auto& uuid = before.uuid;
  const auto overlay = new_overlay(64 * kMiB);
  REQUIRE_OK(hypervisor.insert_overlay(uuid, "vda", overlay));
  world().power_off(guest);

  const auto off = domain_of(guest);
  CHECK(off.state == DomainState::inactive);
  for (const auto& disk : {off.disks.at(0), off.persistent_disks.at(0)}) {
    CHECK(disk.file_path == overlay);
    CHECK_FALSE(disk.image);
    CHECK(disk.has_overlay);
  }
  CHECK_ERROR(hypervisor.redefine_disk(uuid, "vdz", image, world().access()), ErrorCode::not_found);
  for (const auto& name : {image, other}) {
    REQUIRE_OK(hypervisor.redefine_disk(uuid, "vda", name, world().access()));
    const auto redefined = domain_of(guest);
    for (const auto& disk : {redefined.disks.at(0), redefined.persistent_disks.at(0)}) {
      CHECK(disk.image == name);
      CHECK(disk.access == before.disks.at(0).access);
      CHECK(disk.described_source == "rbd:" + to_string(name));
      CHECK(disk.file_path.empty());
      CHECK_FALSE(disk.has_overlay);
    }
  }
}

TEST_CASE("the definition of a guest that runs is changed, the guest is not", "[hypervisor]") {
  auto& hypervisor = world().hypervisor();
  auto cluster = connect();
  const auto image = new_image(*cluster, world().pool(), 64 * kMiB);
  const auto other = new_image(*cluster, world().other_pool(), 64 * kMiB);
  const auto guest = world().start_guest({{.target = "vda", .image = image, .writes_per_s = 50}});
  const auto& uuid = domain_of(guest).uuid;
  REQUIRE_OK(hypervisor.redefine_disk(uuid, "vda", other, world().access()));
  const auto redefined = domain_of(guest);
  CHECK(redefined.disks.at(0).image == image);
  CHECK(redefined.persistent_disks.at(0).image == other);
  CHECK(redefined.persistent_disks.at(0).access == redefined.disks.at(0).access);
  CHECK_FALSE(redefined.has_saved_state);
  CHECK(cluster->image(image)->watchers.size() == 1);
  CHECK(writes_on(uuid, 1));
  world().power_off(guest);
  CHECK(domain_of(guest).disks.at(0).image == other);
  CHECK_FALSE(domain_of(guest).has_saved_state);

  const auto transient = world().start_guest({{.target = "vda", .image = image}}, Start::transient);
  CHECK_ERROR(hypervisor.redefine_disk(domain_of(transient).uuid, "vda", other, world().access()), ErrorCode::failed);
  CHECK(domain_of(transient).disks.at(0).image == image);
}

TEST_CASE("a guardian lets a guest run that nobody else resumes", "[hypervisor][system]") {
  auto& hypervisor = world().hypervisor();
  auto& system = world().system();
  auto cluster = connect();
  const auto image = new_image(*cluster, world().pool(), 64 * kMiB);
  const auto guest = world().start_guest({{.target = "vda", .image = image}});
  GuardOrder order;
  order.job_id = "contract";
  order.connect_uri = world().connect_uri();
  order.domain_uuid = domain_of(guest).uuid;
  order.disk = "vda";
  order.target = {world().other_pool(), "", "no-such-image"};
  order.overlay_path = world().folder() + "/no-such-overlay";
  order.max_pause_ms = 60'000;
  const auto lock_path = world().folder() + "/" + unique("lock");
  auto lock = system.lock_file(lock_path);
  REQUIRE_OK(lock);
  const auto runs = [&] { return domain_of(guest).state == DomainState::running; };
  const auto is_free = [&] { return system.lock_file(lock_path).ok(); };

  SECTION("told that it runs, it does nothing") {
    auto guardian = system.start_guardian(world().guardian(), to_text(order), **lock);
    REQUIRE_OK(guardian);
    REQUIRE_OK((*guardian)->begin());
    REQUIRE_OK(hypervisor.suspend(order.domain_uuid));
    system.sleep_ms(300);
    CHECK((*guardian)->stands_by());
    CHECK_FALSE(runs());
    (*guardian)->stand_down();
    CHECK_FALSE((*guardian)->stands_by());
    lock->reset();
    CHECK(is_free());
    CHECK_FALSE(runs());
  }
  SECTION("before the pause began, it does nothing") {
    auto guardian = system.start_guardian(world().guardian(), to_text(order), **lock);
    REQUIRE_OK(guardian);
    REQUIRE_OK(hypervisor.suspend(order.domain_uuid));
    guardian->reset();
    lock->reset();
    CHECK(wait_until(is_free, 10));
    CHECK_FALSE(runs());
  }
  SECTION("left alone, it acts, and keeps the lock until it has ended") {
    const bool with_overlay = GENERATE(false, true);
    CAPTURE(with_overlay);
    if (with_overlay) order.overlay_path = new_overlay(64 * kMiB);
    auto guardian = system.start_guardian(world().guardian(), to_text(order), **lock);
    REQUIRE_OK(guardian);
    REQUIRE_OK((*guardian)->begin());
    REQUIRE_OK(hypervisor.suspend(order.domain_uuid));
    if (with_overlay) REQUIRE_OK(hypervisor.insert_overlay(order.domain_uuid, "vda", order.overlay_path));
    CHECK((*guardian)->stands_by());
    guardian->reset();
    lock->reset();
    CHECK_FALSE(is_free());
    CHECK(wait_until(runs, 10));
    CHECK(wait_until(is_free, 10));
    CHECK(disk_of(guest, "vda").image == image);
    CHECK(domain_of(guest).persistent_disks.at(0).image == image);
  }
  SECTION("when it takes too long, it acts") {
    order.max_pause_ms = 1'000;
    auto guardian = system.start_guardian(world().guardian(), to_text(order), **lock);
    REQUIRE_OK(guardian);
    REQUIRE_OK((*guardian)->begin());
    REQUIRE_OK(hypervisor.suspend(order.domain_uuid));
    CHECK_FALSE(runs());
    CHECK(wait_until(runs, 10));
    CHECK_FALSE((*guardian)->stands_by());
    (*guardian)->stand_down();
    lock->reset();
    CHECK(wait_until(is_free, 10));
  }
  SECTION("it has to be told what to do") {
    CHECK_ERROR(system.start_guardian(world().guardian(), "{}", **lock), ErrorCode::failed);
  }
}

TEST_CASE("a hypervisor that is away is unreachable, and found again when it is back", "[hypervisor]") {
  auto& hypervisor = world().hypervisor();
  auto cluster = connect();
  const auto image = new_image(*cluster, world().pool(), kGiB);
  const auto guest = world().start_guest({{.target = "vda", .image = image}}, Start::paused);
  const auto uuid = domain_of(guest).uuid;

  world().stop_hypervisor();
  CHECK_ERROR(hypervisor.find_domain(guest), ErrorCode::unreachable);
  CHECK_ERROR(hypervisor.versions(), ErrorCode::unreachable);
  CHECK_ERROR(hypervisor.pivot_mirror(uuid, "vda"), ErrorCode::unreachable);
  CHECK_ERROR(hypervisor.suspend(uuid), ErrorCode::unreachable);
  CHECK_ERROR(hypervisor.resume(uuid), ErrorCode::unreachable);
  CHECK_ERROR(hypervisor.insert_overlay(uuid, "vda", "/nowhere"), ErrorCode::unreachable);
  CHECK_ERROR(hypervisor.commit_overlay(uuid, "vda"), ErrorCode::unreachable);
  CHECK_ERROR(hypervisor.redefine_disk(uuid, "vda", image, world().access()), ErrorCode::unreachable);
  world().start_hypervisor();
  const auto found = hypervisor.find_domain(guest);
  REQUIRE_OK(found);
  CHECK(found->state == DomainState::paused);

  // Away and back between two calls: nobody needs to know.
  world().stop_hypervisor();
  world().start_hypervisor();
  REQUIRE_OK(hypervisor.find_domain(guest));
}

}  // namespace poolshift::contract
