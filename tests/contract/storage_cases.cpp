#include <algorithm>
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
  const auto used = cluster.usage(name);
  if (!used) FAIL(used.error().message);
  return used->bytes;
}

bool has_own_data(Cluster& cluster, const ImageName& name) {
  const auto has = cluster.has_own_data(name);
  if (!has) FAIL(has.error().message);
  return *has;
}

bool go_on(std::uint64_t, std::uint64_t) { return true; }
bool stop(std::uint64_t, std::uint64_t) { return false; }

ImageSpec spec_of(const ImageSpec& like, std::uint64_t size_bytes) {
  ImageSpec spec = like;
  spec.size_bytes = size_bytes;
  spec.metadata.clear();
  return spec;
}

constexpr std::uint64_t kFilledBytes = 8 * kMiB;

// An image that nobody has open, with data.
ImageName filled_image(Cluster& cluster) {
  const auto name = new_image(cluster, world().pool(), 64 * kMiB);
  const auto guest = world().start_guest({{.target = "vda", .image = name, .fill_bytes = kFilledBytes}});
  world().power_off(guest);
  if (!wait_until([&] { return image_of(cluster, name).watchers.empty(); })) FAIL("the image stays open");
  return name;
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
  CHECK_ERROR(cluster->usage(missing_image()), ErrorCode::not_found);
  CHECK_ERROR(cluster->rename_image(missing_image(), {world().pool(), "", "other"}), ErrorCode::not_found);
  CHECK_ERROR(cluster->resize_image(missing_image(), kGiB), ErrorCode::not_found);
  CHECK_ERROR(cluster->sparsify_image(missing_image()), ErrorCode::not_found);
  CHECK_ERROR(cluster->set_metadata(missing_image(), "key", "value"), ErrorCode::not_found);
  CHECK_ERROR(cluster->remove_metadata(missing_image(), "key"), ErrorCode::not_found);
  CHECK_ERROR(cluster->create_snapshot(missing_image(), "one"), ErrorCode::not_found);
  CHECK_ERROR(cluster->remove_snapshot(missing_image(), "one"), ErrorCode::not_found);
  const ImageName clone{world().pool(), "", "no-such-clone"};
  CHECK_ERROR(cluster->clone_image(missing_image(), "one", clone, {}), ErrorCode::not_found);
  REQUIRE_OK(cluster->remove_untouched_clone(missing_image()));
  CHECK_ERROR(cluster->has_own_data(missing_image()), ErrorCode::not_found);
  CHECK_ERROR(cluster->snapshot_objects(missing_image(), "one"), ErrorCode::not_found);
  CHECK_ERROR(cluster->object_copier(missing_image(), "one", clone), ErrorCode::not_found);
  CHECK_ERROR(cluster->rebuild_object_map(missing_image(), go_on), ErrorCode::not_found);
  CHECK_ERROR(cluster->flatten_image(missing_image(), go_on), ErrorCode::not_found);
  const auto image = new_image(*cluster, world().pool(), kMiB);
  CHECK_ERROR(cluster->clone_image(image, "one", clone, image_of(*cluster, image).spec), ErrorCode::not_found);
  CHECK_ERROR(cluster->snapshot_objects(image, "one"), ErrorCode::not_found);
  CHECK_ERROR(cluster->object_copier(image, "one", image), ErrorCode::not_found);
  CHECK_ERROR(cluster->image(clone), ErrorCode::not_found);
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

  const auto trashed = cluster->trash_of(third);
  REQUIRE_OK(trashed);
  REQUIRE(trashed->size() == 1);
  CHECK(trashed->front().id == id);
  CHECK(trashed->front().watchers.empty());
  CHECK(cluster->trash_of(first)->empty());
  CHECK_ERROR(cluster->trash_of({"no-such-pool", "", "image"}), ErrorCode::not_found);
  CHECK_ERROR(cluster->restore_from_trash(second, id), ErrorCode::exists);
  REQUIRE_OK(cluster->restore_from_trash(third, id));
  CHECK(image_of(*cluster, third).id == id);
  CHECK(cluster->trash_of(third)->empty());
  CHECK_ERROR(cluster->restore_from_trash(third, id), ErrorCode::not_found);
}

TEST_CASE("a rename that a client died over is ended", "[storage]") {
  auto cluster = connect();
  const auto listed = new_image(*cluster, world().pool(), kMiB);
  const ImageName other{world().pool(), "", unique("contract")};
  const auto image = image_of(*cluster, listed);
  const auto id = image.id;
  world().half_rename(listed, other);
  const bool list_was_changed = GENERATE(false, true);
  const auto from = list_was_changed ? other : listed;
  const auto to = list_was_changed ? listed : other;
  CHECK(image_of(*cluster, from).id == id);
  CHECK(image_of(*cluster, to).id == id);
  REQUIRE_OK(cluster->rename_image(from, to));
  CHECK(image_of(*cluster, to).id == id);
  CHECK_ERROR(cluster->image(from), ErrorCode::not_found);
  REQUIRE_OK(cluster->create_image(from, image.spec));
  CHECK_ERROR(cluster->rename_image(from, to), ErrorCode::exists);
  REQUIRE_OK(cluster->move_to_trash(to));
  CHECK_ERROR(cluster->image(to), ErrorCode::not_found);
}

TEST_CASE("a move to the trash that a client died over is ended", "[storage]") {
  auto cluster = connect();
  const auto name = new_image(*cluster, world().pool(), kMiB);
  const auto image = image_of(*cluster, name);
  world().half_trash(name, image.id);
  CHECK_ERROR(cluster->image(name), ErrorCode::not_found);
  CHECK_ERROR(cluster->create_image(name, image.spec), ErrorCode::exists);
  REQUIRE_OK(cluster->move_to_trash(name));
  CHECK_ERROR(cluster->move_to_trash(name), ErrorCode::not_found);
  const auto trashed = cluster->trash_of(name);
  REQUIRE_OK(trashed);
  REQUIRE(trashed->size() == 1);
  CHECK(trashed->front().id == image.id);
  REQUIRE_OK(cluster->create_image(name, image.spec));
}

TEST_CASE("a removal of a snapshot that a client died over is ended", "[storage]") {
  auto cluster = connect();
  const auto name = new_image(*cluster, world().pool(), kMiB);
  REQUIRE_OK(cluster->create_snapshot(name, "one"));
  REQUIRE_OK(cluster->create_snapshot(name, "two"));
  world().half_remove_snapshot(name, "one");
  CHECK_ERROR(cluster->snapshot_objects(name, "one"), ErrorCode::not_found);
  CHECK(image_of(*cluster, name).snapshots.size() == 2);
  REQUIRE_OK(cluster->remove_snapshot(name, "one"));
  CHECK(image_of(*cluster, name).snapshots == std::vector<std::string>{"two"});
  REQUIRE_OK(cluster->remove_snapshot(name, "one"));
  CHECK(image_of(*cluster, name).snapshots == std::vector<std::string>{"two"});
  REQUIRE_OK(cluster->remove_snapshot(name, "two"));
  CHECK(image_of(*cluster, name).snapshots.empty());
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

TEST_CASE("an image is frozen and cloned", "[storage]") {
  auto cluster = connect();
  const auto source = new_image(*cluster, world().pool(), 64 * kMiB);
  REQUIRE_OK(cluster->create_snapshot(source, "one"));
  CHECK_ERROR(cluster->create_snapshot(source, "one"), ErrorCode::exists);
  REQUIRE_OK(cluster->create_snapshot(source, "two"));
  CHECK(image_of(*cluster, source).snapshots == std::vector<std::string>{"one", "two"});
  REQUIRE_OK(cluster->remove_snapshot(source, "two"));
  REQUIRE_OK(cluster->remove_snapshot(source, "two"));
  CHECK(image_of(*cluster, source).snapshots == std::vector<std::string>{"one"});
  CHECK(cluster->snapshot_objects(source, "one")->empty());

  const ImageName clone{world().other_pool(), "", unique("contract")};
  auto wanted = spec_of(image_of(*cluster, source).spec, 0);
  SECTION("plain") {}
  SECTION("other features and object size") {
    wanted.features = 1;
    wanted.order = 23;
  }
  SECTION("data in another pool") {
    wanted.features |= 128;
    wanted.data_pool = world().pool();
  }
  REQUIRE_OK(cluster->clone_image(source, "one", clone, wanted));
  CHECK_ERROR(cluster->clone_image(source, "one", clone, wanted), ErrorCode::exists);
  const auto cloned = image_of(*cluster, clone);
  CHECK(spec_of(cloned.spec, 0) == wanted);
  CHECK(cloned.spec.size_bytes == 64 * kMiB);
  CHECK(cloned.parent == to_string(source) + "@one");
  CHECK(cloned.watchers.empty());
  CHECK(cloned.snapshots.empty());
  CHECK_FALSE(has_own_data(*cluster, clone));
  CHECK(used_by(*cluster, clone) == 0);

  CHECK_ERROR(cluster->remove_snapshot(source, "one"), ErrorCode::busy);
  CHECK(image_of(*cluster, source).snapshots == std::vector<std::string>{"one"});
  CHECK_ERROR(cluster->remove_untouched_clone(source), ErrorCode::refused);
  REQUIRE_OK(cluster->remove_untouched_clone(clone));
  REQUIRE_OK(cluster->remove_untouched_clone(clone));
  CHECK_ERROR(cluster->image(clone), ErrorCode::not_found);
  REQUIRE_OK(cluster->remove_snapshot(source, "one"));
  CHECK(image_of(*cluster, source).snapshots.empty());
}

TEST_CASE("a clone follows its parent's name and survives it in the trash", "[storage]") {
  auto cluster = connect();
  const auto source = new_image(*cluster, world().pool(), 64 * kMiB);
  REQUIRE_OK(cluster->create_snapshot(source, "one"));
  const ImageName clone{world().other_pool(), "", unique("contract")};
  REQUIRE_OK(cluster->clone_image(source, "one", clone, image_of(*cluster, source).spec));
  const ImageName renamed{world().pool(), "", unique("contract")};
  REQUIRE_OK(cluster->rename_image(source, renamed));
  CHECK(image_of(*cluster, clone).parent == to_string(renamed) + "@one");
  CHECK_ERROR(cluster->remove_snapshot(renamed, "one"), ErrorCode::busy);
  REQUIRE_OK(cluster->move_to_trash(renamed));
  CHECK_FALSE(image_of(*cluster, clone).parent.empty());
  REQUIRE_OK(cluster->flatten_image(clone, go_on));
  CHECK(image_of(*cluster, clone).parent.empty());
}

TEST_CASE("a clone gets its data object by object", "[storage]") {
  auto cluster = connect();
  const auto source = filled_image(*cluster);
  REQUIRE_OK(cluster->create_snapshot(source, "one"));
  const ImageName clone{world().other_pool(), "", unique("contract")};
  auto spec = image_of(*cluster, source).spec;
  // With and without an object map that has to be told.
  spec.features = GENERATE(std::uint64_t{61}, std::uint64_t{1});
  const bool open = GENERATE(false, true);
  CAPTURE(spec.features, open);
  REQUIRE_OK(cluster->clone_image(source, "one", clone, spec));
  CHECK(used_by(*cluster, clone) == kFilledBytes);
  const auto objects = cluster->snapshot_objects(source, "one");
  REQUIRE_OK(objects);
  REQUIRE(objects->size() > 1);
  CHECK(std::is_sorted(objects->begin(), objects->end()));
  CHECK(objects->front() == 0);

  if (open) {
    world().start_guest({{.target = "vda", .image = clone, .writes_per_s = 100}}, Start::transient);
    CHECK(wait_until([&] { return used_by(*cluster, clone) >= kFilledBytes && has_own_data(*cluster, clone); }));
    world().system().sleep_ms(2000);
  }
  const auto watchers = image_of(*cluster, clone).watchers;
  auto asked = *objects;
  asked.push_back(objects->back() + 1);
  {
    const auto copier = cluster->object_copier(source, "one", clone);
    REQUIRE_OK(copier);
    const auto copies = (*copier)->copy(asked, 4);
    REQUIRE_OK(copies);
    if (!open) CHECK(copies->absent == 1);  // the guest may write there
    CHECK((copies->present > 0) == open);
    CHECK(copies->copied + copies->present + copies->absent == asked.size());
    const auto again = (*copier)->copy(asked, 4);
    REQUIRE_OK(again);
    CHECK(again->copied == 0);
    CHECK(again->present >= objects->size());
    CHECK(again->present + again->absent == asked.size());
    const auto nothing = (*copier)->copy({}, 4);
    REQUIRE_OK(nothing);
    CHECK(nothing->copied + nothing->present + nothing->absent == 0);
  }
  REQUIRE_OK(cluster->rebuild_object_map(clone, go_on));
  CHECK(has_own_data(*cluster, clone));
  CHECK_FALSE(image_of(*cluster, clone).parent.empty());
  CHECK_ERROR(cluster->remove_snapshot(source, "one"), ErrorCode::busy);
  CHECK_ERROR(cluster->remove_untouched_clone(clone), open ? ErrorCode::busy : ErrorCode::refused);
  REQUIRE_OK(cluster->flatten_image(clone, go_on));
  CHECK(image_of(*cluster, clone).parent.empty());
  const auto is_all_there = [&] {
    const auto used = used_by(*cluster, clone);
    return open ? used >= kFilledBytes : used == kFilledBytes;
  };
  CHECK(is_all_there());
  CHECK(image_of(*cluster, clone).watchers == watchers);
  REQUIRE_OK(cluster->flatten_image(clone, go_on));
  REQUIRE_OK(cluster->rebuild_object_map(clone, go_on));
  REQUIRE_OK(cluster->remove_snapshot(source, "one"));
  CHECK(is_all_there());
  CHECK_ERROR(cluster->remove_untouched_clone(clone), ErrorCode::refused);
}

TEST_CASE("a flatten gives a clone all that it has not", "[storage]") {
  auto cluster = connect();
  const auto source = filled_image(*cluster);
  REQUIRE_OK(cluster->create_snapshot(source, "one"));
  const ImageName clone{world().other_pool(), "", unique("contract")};
  REQUIRE_OK(cluster->clone_image(source, "one", clone, image_of(*cluster, source).spec));
  SECTION("watched") { REQUIRE_OK(cluster->flatten_image(clone, go_on)); }
  SECTION("with nobody watching") { REQUIRE_OK(cluster->flatten_image(clone, nullptr)); }
  SECTION("left when nobody else has it open: it stops, and is begun again") {
    CHECK_ERROR(cluster->flatten_image(clone, stop), ErrorCode::left);
    REQUIRE_OK(cluster->flatten_image(clone, go_on));
  }
  SECTION("left when a guest has it open and writes: that goes on with it") {
    const auto guest = world().start_guest({{.target = "vda", .image = clone, .writes_per_s = 50}});
    CHECK(wait_until([&] { return has_own_data(*cluster, clone); }));
    CHECK_ERROR(cluster->flatten_image(clone, stop), ErrorCode::left);
    CHECK(wait_until([&] { return image_of(*cluster, clone).parent.empty(); }));
    world().power_off(guest);
  }
  CHECK(image_of(*cluster, clone).parent.empty());
  CHECK(used_by(*cluster, clone) >= kFilledBytes);
  CHECK(has_own_data(*cluster, clone));
  REQUIRE_OK(cluster->remove_snapshot(source, "one"));
}

}  // namespace poolshift::contract
