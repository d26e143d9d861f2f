#include <algorithm>
#include <catch2/catch.hpp>

#include "checks.h"
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
    CHECK_ERROR(hypervisor.disk_counters(domain, disk), ErrorCode::not_found);
    CHECK_ERROR(hypervisor.write_limit(domain, disk), ErrorCode::not_found);
    CHECK_ERROR(hypervisor.set_write_limit(domain, disk, {}), ErrorCode::not_found);
    CHECK_ERROR(hypervisor.grow_disk(domain, disk, kGiB), ErrorCode::not_found);
  }
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
  const bool synchronous = GENERATE(false, true);
  CAPTURE(unmaps, synchronous);
  const auto guest =
      world().start_guest({{.target = "vda", .image = source, .unmaps = unmaps, .fill_bytes = 32 * kMiB}});
  const auto before = domain_of(guest);

  auto options = to(target);
  options.granularity_bytes = kMiB;
  options.buffer_bytes = 64 * kMiB;
  options.synchronous_writes = synchronous;
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
