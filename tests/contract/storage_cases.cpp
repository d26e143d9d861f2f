#include <catch2/catch.hpp>

#include "checks.h"
#include "world.h"

namespace poolshift::contract {
namespace {

Image image_of(Cluster& cluster, const ImageName& name) {
  auto found = cluster.image(name);
  if (!found) FAIL(found.error().message);
  return std::move(*found);
}

std::uint64_t used_by(Cluster& cluster, const ImageName& name) {
  const auto used = cluster.used_bytes(name);
  if (!used) FAIL(used.error().message);
  return *used;
}

ImageName missing_image() { return {world().pool(), "", "no-such-image"}; }

}  // namespace

TEST_CASE("a cluster lets in only who has the key", "[storage]") {
  CHECK_FALSE(world().storage().version().empty());
  const auto fsid = connect()->fsid();
  REQUIRE_OK(fsid);
  CHECK(fsid->size() == 36);

  const auto access = world().strict_access();
  REQUIRE_OK(world().storage().connect(access, world().key()));
  CHECK_ERROR(world().storage().connect(access, "AQAzBXRkAAAAABAAWmeWxhnTMpj9SAlnAkqqPA=="), ErrorCode::denied);
  CHECK_ERROR(world().storage().connect(access, "not a key"), ErrorCode::denied);
  CHECK_ERROR(world().storage().connect(access, ""), ErrorCode::denied);
}

TEST_CASE("pools are described", "[storage]") {
  auto cluster = connect();
  const auto pool = cluster->pool(world().pool());
  REQUIRE_OK(pool);
  CHECK(pool->id > 0);
  CHECK(pool->has_application_rbd);
  CHECK_FALSE(pool->erasure_coded);
  CHECK_FALSE(pool->allows_ec_overwrites);
  CHECK_FALSE(pool->full);
  CHECK_FALSE(pool->backfillfull);
  CHECK_FALSE(pool->nearfull);
  CHECK(pool->max_avail_bytes > kGiB);
  CHECK(pool->quota_bytes == 0);
  CHECK(pool->quota_objects == 0);
  CHECK(cluster->pool(world().other_pool())->id != pool->id);
  CHECK_ERROR(cluster->pool("no-such-pool"), ErrorCode::not_found);
  REQUIRE_OK(cluster->health());
}

TEST_CASE("whether a user may write is found out without writing", "[storage]") {
  auto cluster = connect();
  REQUIRE_OK(cluster->may_write(world().pool(), ""));
  REQUIRE_OK(cluster->may_write(world().other_pool(), ""));
  CHECK_ERROR(cluster->may_write(world().forbidden_pool(), ""), ErrorCode::denied);
  CHECK_ERROR(cluster->may_write("no-such-pool", ""), ErrorCode::not_found);
  CHECK_ERROR(cluster->image({world().forbidden_pool(), "", "image"}), ErrorCode::denied);
}

TEST_CASE("an image is made as it is told and described as it is", "[storage]") {
  auto cluster = connect();
  ImageSpec spec;
  spec.size_bytes = 100 * kMiB;
  spec.features = 61;  // RBD_FEATURES_DEFAULT
  spec.metadata = {{"contract.job", "0123456789ab"}, {"note", "two\nlines"}};
  SECTION("plain") {}
  SECTION("without features") { spec.features = 1; }
  SECTION("other object size") { spec.order = 23; }
  SECTION("striped") {
    spec.features |= 2;
    spec.stripe_unit = 64 * 1024;
    spec.stripe_count = 4;
  }
  SECTION("data in another pool") {
    spec.features |= 128;
    spec.data_pool = world().other_pool();
  }
  const ImageName name{world().pool(), "", unique("contract")};
  REQUIRE_OK(cluster->create_image(name, spec));
  CHECK_ERROR(cluster->create_image(name, spec), ErrorCode::exists);

  const auto image = image_of(*cluster, name);
  CHECK(image.spec == spec);
  CHECK_FALSE(image.id.empty());
  CHECK(image.watchers.empty());
  CHECK(image.lockers.empty());
  CHECK(image.snapshots.empty());
  CHECK(image.parent.empty());
  CHECK(image.group.empty());
  CHECK_FALSE(image.migrating);
  CHECK_FALSE(image.mirroring);
  CHECK(used_by(*cluster, name) == 0);
}

TEST_CASE("what does not exist is not found", "[storage]") {
  auto cluster = connect();
  CHECK_ERROR(cluster->image(missing_image()), ErrorCode::not_found);
  CHECK_ERROR(cluster->image({"no-such-pool", "", "image"}), ErrorCode::not_found);
  CHECK_ERROR(cluster->used_bytes(missing_image()), ErrorCode::not_found);
  CHECK_ERROR(cluster->rename_image(missing_image(), {world().pool(), "", "other"}), ErrorCode::not_found);
  CHECK_ERROR(cluster->resize_image(missing_image(), kGiB), ErrorCode::not_found);
  CHECK_ERROR(cluster->sparsify_image(missing_image()), ErrorCode::not_found);
  CHECK_ERROR(cluster->set_metadata(missing_image(), "key", "value"), ErrorCode::not_found);
  CHECK_ERROR(cluster->remove_metadata(missing_image(), "key"), ErrorCode::not_found);
  CHECK_ERROR(cluster->move_to_trash(missing_image()), ErrorCode::not_found);
  CHECK_ERROR(cluster->create_image({"no-such-pool", "", "image"}, {}), ErrorCode::not_found);
  ImageSpec spec;
  spec.size_bytes = kMiB;
  spec.features = 61;
  spec.data_pool = "no-such-pool";
  CHECK_ERROR(cluster->create_image({world().pool(), "", unique("contract")}, spec), ErrorCode::not_found);
}

TEST_CASE("an image is renamed, resized, marked and thrown away", "[storage]") {
  auto cluster = connect();
  const auto first = new_image(*cluster, world().pool(), kGiB);
  const auto second = new_image(*cluster, world().pool(), kGiB);
  const ImageName third{world().pool(), "", unique("contract")};
  const auto id = image_of(*cluster, first).id;

  CHECK_ERROR(cluster->rename_image(first, second), ErrorCode::exists);
  REQUIRE_OK(cluster->rename_image(first, third));
  CHECK(image_of(*cluster, third).id == id);
  CHECK_ERROR(cluster->image(first), ErrorCode::not_found);

  REQUIRE_OK(cluster->resize_image(third, 2 * kGiB));
  CHECK(image_of(*cluster, third).spec.size_bytes == 2 * kGiB);
  REQUIRE_OK(cluster->resize_image(third, kGiB / 2));
  CHECK(image_of(*cluster, third).spec.size_bytes == kGiB / 2);
  REQUIRE_OK(cluster->resize_image(third, kGiB / 2));

  REQUIRE_OK(cluster->set_metadata(third, "key", "one"));
  REQUIRE_OK(cluster->set_metadata(third, "key", "two"));
  CHECK(image_of(*cluster, third).spec.metadata == std::map<std::string, std::string>{{"key", "two"}});
  REQUIRE_OK(cluster->remove_metadata(third, "key"));
  REQUIRE_OK(cluster->remove_metadata(third, "key"));
  CHECK(image_of(*cluster, third).spec.metadata.empty());

  REQUIRE_OK(cluster->move_to_trash(third));
  CHECK_ERROR(cluster->image(third), ErrorCode::not_found);
  CHECK_ERROR(cluster->move_to_trash(third), ErrorCode::not_found);
}

TEST_CASE("an image that a guest uses", "[storage]") {
  auto cluster = connect();
  const ImageName name{world().pool(), "", unique("contract")};
  ImageSpec spec;
  spec.size_bytes = kGiB;
  // With and without exclusive-lock, object-map and fast-diff.
  spec.features = GENERATE(std::uint64_t{61}, std::uint64_t{1});
  CAPTURE(spec.features);
  REQUIRE_OK(cluster->create_image(name, spec));
  const auto guest = world().start_guest({{.target = "vda", .image = name, .fill_bytes = 8 * kMiB}});

  const auto image = image_of(*cluster, name);
  CHECK(image.watchers.size() == 1);
  CHECK(image.lockers.size() == (spec.features == 61 ? 1 : 0));
  CHECK(used_by(*cluster, name) == 8 * kMiB);
  // Looking again, from another client too, adds no watcher.
  CHECK(image_of(*connect(), name).watchers == image.watchers);

  CHECK_ERROR(cluster->move_to_trash(name), ErrorCode::busy);
  REQUIRE_OK(cluster->set_metadata(name, "key", "value"));
  REQUIRE_OK(cluster->remove_metadata(name, "key"));
  REQUIRE_OK(cluster->sparsify_image(name));
  CHECK(used_by(*cluster, name) == 8 * kMiB);
  REQUIRE_OK(cluster->resize_image(name, 2 * kGiB));
  CHECK(image_of(*cluster, name).spec.size_bytes == 2 * kGiB);
  CHECK(image_of(*cluster, name).watchers == image.watchers);

  world().power_off(guest);
  CHECK(wait_until([&] { return image_of(*cluster, name).watchers.empty(); }));
  REQUIRE_OK(cluster->move_to_trash(name));
}

}  // namespace poolshift::contract
