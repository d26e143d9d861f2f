#include <fmt/core.h>

#include <algorithm>

#include "fakes/fake_world.h"

namespace poolshift::fakes {
namespace {

constexpr std::uint64_t kLayering = 1;       // RBD_FEATURE_LAYERING
constexpr std::uint64_t kExclusiveLock = 4;  // RBD_FEATURE_EXCLUSIVE_LOCK
constexpr std::uint64_t kFastDiff = 16;      // RBD_FEATURE_FAST_DIFF
constexpr std::int64_t kWatchingMs = 5;      // how often who waits is asked
constexpr std::int64_t kGivesUpMs = 600'000;

Error not_found(const std::string& what) {
  return {ErrorCode::not_found, fmt::format("{} does not exist", what), "Check the name."};
}

Error unreachable() { return {ErrorCode::unreachable, "the cluster does not answer", "Look at it."}; }

std::string snapshot_name(const ImageName& image, const std::string& snapshot) {
  return to_string(image) + "@" + snapshot;
}

bool has_dead_watcher(const FakeImage& fake) {
  return std::any_of(fake.watchers.begin(), fake.watchers.end(), [](const auto& each) { return each.second >= 0; });
}

// As the object map tells it.
bool has_mapped_objects(const FakeImage& fake) {
  const auto objects = FakeWorld::objects_of(fake);
  return std::any_of(objects.begin(), objects.end(), [&](auto object) { return !fake.unmapped.contains(object); });
}

class FakeObjectCopier : public ObjectCopier {
 public:
  FakeObjectCopier(FakeWorld& world, ImageName image, std::string snapshot, ImageName clone)
      : world_(world), image_(std::move(image)), snapshot_(std::move(snapshot)), clone_(std::move(clone)) {}

  Result<ObjectCopies> copy(const std::vector<std::uint64_t>& objects, unsigned in_flight) override {
    return world_.call([&]() -> Result<ObjectCopies> {
      ObjectCopies copies;
      const std::size_t count = world_.torn_now() ? objects.size() / 2 : objects.size();
      const std::size_t at_a_time = std::max(in_flight, 1U);
      for (std::size_t done = 0; done < count; done += at_a_time) {
        const auto end = std::min(count, done + at_a_time);
        for (auto i = done; i < end; ++i) POOLSHIFT_TRY(copy_one(objects[i], copies));
        world_.offloads_under_way = static_cast<unsigned>(end - done);
        world_.advance(world_.offload_ms);
        world_.offloads_under_way = 0;
      }
      return copies;
    });
  }

 private:
  Status copy_one(std::uint64_t object, ObjectCopies& copies) {
    if (world_.now_ms < world_.cluster_away_until_ms) return unreachable();
    const auto* frozen = world_.snapshot(snapshot_name(image_, snapshot_));
    auto* clone = world_.image(clone_);
    if (frozen == nullptr || clone == nullptr) return not_found("the snapshot or its clone");
    const auto& pool = FakeWorld::data_pool(clone_, *clone);
    if (world_.is_full(pool)) {
      return Error{ErrorCode::failed, fmt::format("pool '{}' is full", pool), "Make room in it."};
    }
    if (FakeWorld::has_object(*clone, object)) {
      ++copies.present;
    } else if (!FakeWorld::has_object(*frozen, object)) {
      ++copies.absent;
    } else {
      ++copies.copied;
      clone->blocks.insert(frozen->blocks.lower_bound(object * kObjectBlocks),
                           frozen->blocks.lower_bound((object + 1) * kObjectBlocks));
      const bool mapped = clone->mapped_in_vain.erase(object) != 0;
      if (!mapped && (clone->spec.features & kFeatureObjectMap) != 0) clone->unmapped.insert(object);
    }
    return {};
  }

  FakeWorld& world_;
  ImageName image_;
  std::string snapshot_;
  ImageName clone_;
};

class FakeCluster : public Cluster {
 public:
  FakeCluster(FakeWorld& world, std::string fsid) : world_(world), fsid_(std::move(fsid)) {}

  Result<std::string> fsid() override {
    return world_.call([&]() -> Result<std::string> {
      if (away()) return unreachable();
      return fsid_;
    });
  }

  Result<Pool> pool(const std::string& name) override {
    return world_.call([&]() -> Result<Pool> {
      POOLSHIFT_TRY(pool_usable(name, false));
      Pool pool = world_.pools[name].pool;
      pool.full = world_.is_full(name);
      return pool;
    });
  }

  Result<std::vector<HealthCheck>> health() override {
    return world_.call([&]() -> Result<std::vector<HealthCheck>> {
      if (away()) return unreachable();
      return world_.health;
    });
  }

  Status may_write(const std::string& pool, const std::string&) override {
    return world_.call([&]() -> Status { return pool_usable(pool, true); });
  }

  Result<Image> image(const ImageName& name) override {
    return world_.call([&]() -> Result<Image> {
      Image found;
      auto status = on_image(name, [&](FakeImage& fake) -> Status {
        found.id = fake.id;
        found.spec = fake.spec;
        for (const auto& [watcher, until_ms] : fake.watchers) found.watchers.push_back(watcher);
        found.lockers = fake.lockers;
        // QEMU takes the exclusive lock of an image that has the feature.
        const bool open = std::any_of(fake.watchers.begin(), fake.watchers.end(),
                                      [](const auto& watcher) { return watcher.first.starts_with("qemu-"); });
        if (open && (fake.spec.features & kExclusiveLock) != 0) found.lockers.push_back("client.qemu");
        found.snapshots = fake.snapshots;
        for (const auto& snapshot : fake.half_removed) found.snapshots.push_back("hidden." + snapshot);
        found.parent = fake.parent;
        found.group = fake.group;
        found.migrating = fake.migrating;
        found.mirroring = fake.mirroring;
        return {};
      });
      if (!status) return status.error();
      return found;
    });
  }

  Result<Usage> usage(const ImageName& name) override {
    return world_.call([&]() -> Result<Usage> {
      Usage usage;
      auto status = on_image(name, [&](FakeImage& fake) -> Status {
        usage = world_.usage(fake);
        return {};
      });
      if (!status) return status.error();
      return usage;
    });
  }

  Status create_image(const ImageName& name, const ImageSpec& spec) override {
    return world_.call([&]() -> Status {
      POOLSHIFT_TRY(pool_usable(name.pool, true));
      if (is_taken(name)) return exists(name);
      if (!spec.data_pool.empty()) POOLSHIFT_TRY(pool_usable(spec.data_pool, true));
      FakeImage& fake = world_.images[name];
      fake.id = world_.next_id();
      fake.spec = spec;
      if (world_.torn_now()) fake.spec.metadata.clear();  // metadata is set after the creation, key by key
      return {};
    });
  }

  Status rename_image(const ImageName& from, const ImageName& to) override {
    return world_.call([&]() -> Status {
      return on_image(from, [&](FakeImage& fake) -> Status {
        if (world_.image(to) == &fake) {
          end_rename(from, to);
        } else if (is_taken(to)) {
          return exists(to);
        } else if (world_.torn_now() && world_.calls() % 2 == 0) {
          world_.half_renamed.emplace(to, from);  // the pool's list still has the one name
        } else {
          end_rename(from, to);
          if (world_.torn_now()) world_.half_renamed.emplace(from, to);  // or already the other
        }
        return {};
      });
    });
  }

  Status resize_image(const ImageName& name, std::uint64_t size_bytes) override {
    return world_.call([&]() -> Status {
      return on_image(name, [&](FakeImage& fake) -> Status {
        fake.spec.size_bytes = size_bytes;
        fake.parent_bytes = std::min(fake.parent_bytes, size_bytes);
        std::erase_if(fake.blocks, [&](const auto& block) { return block.first * kBlockBytes >= size_bytes; });
        return {};
      });
    });
  }

  Status sparsify_image(const ImageName& name) override {
    return world_.call([&]() -> Status {
      return on_image(name, [&](FakeImage& fake) -> Status {
        // Of a clone the objects stay: without them the parent would be seen.
        if (fake.parent.empty()) std::erase_if(fake.blocks, [](const auto& block) { return block.second == 0; });
        return {};
      });
    });
  }

  Status set_metadata(const ImageName& name, const std::string& key, const std::string& value) override {
    return world_.call([&]() -> Status {
      return on_image(name, [&](FakeImage& fake) -> Status {
        fake.spec.metadata[key] = value;
        return {};
      });
    });
  }

  Status remove_metadata(const ImageName& name, const std::string& key) override {
    return world_.call([&]() -> Status {
      return on_image(name, [&](FakeImage& fake) -> Status {
        fake.spec.metadata.erase(key);
        return {};
      });
    });
  }

  Status move_to_trash(const ImageName& name) override {
    return world_.call([&]() -> Status {
      if (!away() && world_.half_trashed.erase(name) != 0) return {};
      if (!away() && world_.half_renamed.contains(name)) return not_found(fmt::format("image {}", to_string(name)));
      return on_image(name, [&](FakeImage& fake) -> Status {
        if (!fake.watchers.empty()) return Error{ErrorCode::busy, "the image is open", "Close it."};
        if (world_.torn_now()) world_.half_trashed.insert(name);  // the pool's list forgets it last
        world_.trash.emplace_back(name, std::move(fake));
        world_.images.erase(name);
        return {};
      });
    });
  }

  Result<std::vector<TrashedImage>> trash_of(const ImageName& name) override {
    return world_.call([&]() -> Result<std::vector<TrashedImage>> {
      POOLSHIFT_TRY(pool_usable(name.pool, false));
      std::vector<TrashedImage> found;
      for (const auto& [trashed, fake] : world_.trash) {
        if (trashed != name) continue;
        found.push_back({fake.id, {}});
        for (const auto& [watcher, until_ms] : fake.watchers) found.back().watchers.push_back(watcher);
      }
      return found;
    });
  }

  Status restore_from_trash(const ImageName& name, const std::string& id) override {
    return world_.call([&]() -> Status {
      POOLSHIFT_TRY(pool_usable(name.pool, true));
      const auto entry = std::find_if(world_.trash.begin(), world_.trash.end(),
                                      [&](const auto& each) { return each.second.id == id; });
      if (entry == world_.trash.end()) return Error{ErrorCode::not_found, "not in the trash", "Look there."};
      if (world_.image(name) != nullptr) return Error{ErrorCode::exists, "the name is taken", "Choose another."};
      world_.images.emplace(name, std::move(entry->second));
      world_.trash.erase(entry);
      return {};
    });
  }

  Status create_snapshot(const ImageName& name, const std::string& snapshot) override {
    return world_.call([&]() -> Status {
      return on_image(name, [&](FakeImage& fake) -> Status {
        if (std::count(fake.snapshots.begin(), fake.snapshots.end(), snapshot) != 0) {
          return Error{ErrorCode::exists, fmt::format("{} exists", snapshot_name(name, snapshot)),
                       "Choose another name."};
        }
        fake.snapshots.push_back(snapshot);
        FakeSnapshot& frozen = fake.frozen[snapshot];
        static_cast<FakeLayer&>(frozen) = fake;
        frozen.size_bytes = fake.spec.size_bytes;
        return {};
      });
    });
  }

  Status remove_snapshot(const ImageName& name, const std::string& snapshot) override {
    return world_.call([&]() -> Status {
      return on_image(name, [&](FakeImage& fake) -> Status {
        if (world_.has_clones(snapshot_name(name, snapshot))) {
          return Error{ErrorCode::busy, fmt::format("{} has clones", snapshot_name(name, snapshot)), "Flatten them."};
        }
        const bool was_there = std::erase(fake.snapshots, snapshot) != 0;
        fake.frozen.erase(snapshot);
        fake.half_removed.erase(snapshot);
        if (was_there && world_.torn_now()) fake.half_removed.insert(snapshot);  // librbd takes it out of sight first
        return {};
      });
    });
  }

  Status clone_image(const ImageName& parent, const std::string& snapshot, const ImageName& name,
                     const ImageSpec& spec) override {
    return world_.call([&]() -> Status {
      POOLSHIFT_TRY(pool_usable(name.pool, true));
      return on_snapshot(parent, snapshot, [&](FakeImage& from, const FakeSnapshot& frozen) -> Status {
        if (is_taken(name)) return exists(name);
        if ((from.spec.features & kLayering) == 0) {
          return Error{ErrorCode::failed, fmt::format("{} has no layering", to_string(parent)), "Copy it."};
        }
        FakeImage& fake = world_.images[name];
        fake.id = world_.next_id();
        fake.spec = spec;
        fake.spec.size_bytes = frozen.size_bytes;
        fake.spec.metadata.clear();
        if (world_.torn_now()) return {};  // the image is made first, then tied to its parent
        fake.spec.metadata = from.spec.metadata;
        fake.parent = snapshot_name(parent, snapshot);
        fake.parent_bytes = frozen.size_bytes;
        return {};
      });
    });
  }

  Status remove_untouched_clone(const ImageName& name) override {
    return world_.call([&]() -> Status {
      POOLSHIFT_TRY(pool_usable(name.pool, true));
      const FakeImage* fake = world_.image(name);
      if (fake == nullptr) return {};
      if (fake->parent.empty()) return Error{ErrorCode::refused, to_string(name) + " is no clone", "Look at it."};
      if (!fake->watchers.empty()) return Error{ErrorCode::busy, "the image is open", "Close it."};
      if (has_mapped_objects(*fake)) return Error{ErrorCode::refused, to_string(name) + " has data", "Look at it."};
      world_.images.erase(name);
      return {};
    });
  }

  Result<bool> has_own_data(const ImageName& name) override {
    return world_.call([&]() -> Result<bool> {
      bool has = false;
      auto status = on_image(name, [&](FakeImage& fake) -> Status {
        has = has_mapped_objects(fake);
        return {};
      });
      if (!status) return status.error();
      return has;
    });
  }

  Result<std::vector<std::uint64_t>> snapshot_objects(const ImageName& name, const std::string& snapshot) override {
    return world_.call([&]() -> Result<std::vector<std::uint64_t>> {
      std::vector<std::uint64_t> objects;
      auto status = on_snapshot(name, snapshot, [&](FakeImage&, const FakeSnapshot& frozen) -> Status {
        objects = FakeWorld::objects_of(frozen);
        return {};
      });
      if (!status) return status.error();
      return objects;
    });
  }

  Result<std::unique_ptr<ObjectCopier>> object_copier(const ImageName& name, const std::string& snapshot,
                                                      const ImageName& clone) override {
    return world_.call([&]() -> Result<std::unique_ptr<ObjectCopier>> {
      auto status = on_snapshot(name, snapshot, [&](FakeImage&, const FakeSnapshot&) -> Status {
        return on_image(clone, [](FakeImage&) -> Status { return {}; });
      });
      if (!status) return status.error();
      return std::unique_ptr<ObjectCopier>(std::make_unique<FakeObjectCopier>(world_, name, snapshot, clone));
    });
  }

  Status rebuild_object_map(const ImageName& name, const Watching& watching) override {
    return world_.call([&]() -> Status {
      return on_image(name, [&](FakeImage& fake) -> Status {
        if ((fake.spec.features & kFeatureObjectMap) == 0) return {};
        fake.unmapped.clear();
        fake.mapped_in_vain.clear();
        const bool waits = !watching || watching(1, 1);
        return waits ? Status() : left(name);
      });
    });
  }

  Status drop_object_map(const ImageName& name) override {
    return world_.call([&]() -> Status {
      return on_image(name, [&](FakeImage& fake) -> Status {
        fake.spec.features &= ~(kFeatureObjectMap | kFastDiff);
        fake.unmapped.clear();
        fake.mapped_in_vain.clear();
        return {};
      });
    });
  }

  Status add_object_map(const ImageName& name, std::uint64_t features) override {
    return world_.call([&]() -> Status {
      return on_image(name, [&](FakeImage& fake) -> Status {
        fake.spec.features |= features & (kFeatureObjectMap | kFastDiff);
        return {};
      });
    });
  }

  Status flatten_image(const ImageName& name, const Watching& watching) override {
    return world_.call([&]() -> Status {
      return on_image(name, [&](FakeImage& found) -> Status {
        if (found.parent.empty()) return {};
        if (!found.flattening) found.flattened_objects = 0;
        found.flattening = true;
        if (world_.torn_now()) return {};
        for (auto progress_ms = world_.now_ms; world_.now_ms - progress_ms < kGivesUpMs;) {
          FakeImage* fake = world_.image(name);
          if (fake == nullptr) return not_found(fmt::format("image {}", to_string(name)));
          if (fake->parent.empty()) return {};
          if (away()) return unreachable();
          // Whose client had the image open has died: it is done here when that one's watch has ended.
          fake->flattening = fake->flattening || !has_dead_watcher(*fake);
          const auto before = fake->flattened_objects;
          if (watching && !watching(before, FakeWorld::objects_of_parent(*fake))) {
            fake->flattening = FakeWorld::is_open(*fake);  // by that client; what is done here ends
            return left(name);
          }
          world_.advance(kWatchingMs);
          if (fake->flattened_objects != before) progress_ms = world_.now_ms;
        }
        return Error{ErrorCode::failed, fmt::format("flattening {} stands still", to_string(name)), "Make room."};
      });
    });
  }

 private:
  bool away() const { return world_.now_ms < world_.cluster_away_until_ms; }
  void end_rename(const ImageName& from, const ImageName& to) {
    if (auto image = world_.images.extract(from)) {
      image.key() = to;
      world_.half_renamed.erase(to);
      world_.images.insert(std::move(image));
      world_.rename_parent(from, to);
    }
    world_.half_renamed.erase(from);
  }
  bool is_taken(const ImageName& name) const {
    return world_.image(name) != nullptr || world_.half_trashed.contains(name) || world_.half_renamed.contains(name);
  }
  static Error left(const ImageName& name) {
    return {ErrorCode::left, fmt::format("left {} to itself", to_string(name)), "Look at it later."};
  }
  static Error exists(const ImageName& name) {
    return {ErrorCode::exists, fmt::format("{} exists", to_string(name)), "Choose another name."};
  }

  Status pool_usable(const std::string& name, bool to_write) const {
    if (away()) return unreachable();
    const auto found = world_.pools.find(name);
    if (found == world_.pools.end()) return not_found(fmt::format("pool '{}'", name));
    if (to_write && !found->second.allowed) {
      return Error{ErrorCode::denied, fmt::format("user 'cinder' may not write to pool '{}'", name), "Grant it."};
    }
    return {};
  }

  template <class Body>
  Status on_image(const ImageName& name, Body body) {
    POOLSHIFT_TRY(pool_usable(name.pool, true));
    FakeImage* fake = world_.image(name);
    if (fake == nullptr) return not_found(fmt::format("image {}", to_string(name)));
    return body(*fake);
  }

  template <class Body>
  Status on_snapshot(const ImageName& name, const std::string& snapshot, Body body) {
    return on_image(name, [&](FakeImage& fake) -> Status {
      const auto found = fake.frozen.find(snapshot);
      if (found == fake.frozen.end()) return not_found(fmt::format("snapshot {}", snapshot_name(name, snapshot)));
      return body(fake, found->second);
    });
  }

  FakeWorld& world_;
  std::string fsid_;
};

class FakeStorage : public Storage {
 public:
  explicit FakeStorage(FakeWorld& world) : world_(world) {}

  Result<std::unique_ptr<Cluster>> connect(const ClusterAccess& access, const std::string& key) override {
    return world_.call([&]() -> Result<std::unique_ptr<Cluster>> {
      if (world_.now_ms < world_.cluster_away_until_ms) {
        return unreachable();
      }
      if (access.conf_path.empty() && key != "key") {
        return Error{ErrorCode::denied, fmt::format("the cluster refuses user '{}'", access.user), "Check the key."};
      }
      const auto by_conf = world_.fsid_by_conf.find(access.conf_path);
      const auto fsid = by_conf == world_.fsid_by_conf.end() ? world_.fsid : by_conf->second;
      return std::unique_ptr<Cluster>(std::make_unique<FakeCluster>(world_, fsid));
    });
  }

  std::string version() override { return world_.librbd_version; }

 private:
  FakeWorld& world_;
};

}  // namespace

std::unique_ptr<Storage> make_fake_storage(FakeWorld& world) { return std::make_unique<FakeStorage>(world); }

}  // namespace poolshift::fakes
