#include "fakes/fake_world.h"

#include <fmt/core.h>

#include <algorithm>

namespace poolshift::fakes {

namespace {

constexpr std::int64_t kWatchTimeoutMs = 30'000;

Error not_found(const std::string& what) {
  return {ErrorCode::not_found, fmt::format("{} does not exist", what), "Check the name."};
}

}  // namespace

FakeWorld::FakeWorld() {
  for (const auto* name : {"volumes-hdd", "volumes-ssd"}) {
    FakePool& fake = pools[name];
    fake.pool.id = static_cast<std::int64_t>(pools.size());
    fake.pool.has_application_rbd = true;
    fake.pool.max_avail_bytes = 1ULL << 40;
  }
  secrets["secret"] = "key";
}

FakeImage& FakeWorld::add_image(const ImageName& name, std::uint64_t size_bytes) {
  FakeImage& added = images[name];
  added.id = next_id();
  added.spec.size_bytes = size_bytes;
  added.spec.features = 1 | 4 | 8 | 16 | 32;  // rbd_default_features
  return added;
}

FakeDisk FakeWorld::disk_on(const std::string& target, const ImageName& image, std::uint64_t writes_per_s) {
  FakeDisk disk;
  disk.shown.target = target;
  disk.shown.image = image;
  disk.shown.described_source = "rbd:" + to_string(image);
  disk.shown.access.user = "cinder";
  disk.shown.access.mon_hosts = {"127.0.0.1:6789"};
  disk.shown.access.secret_uuid = "secret";
  disk.shown.unmaps = true;
  disk.persistent_image = image;
  disk.writes_per_s = writes_per_s;
  return disk;
}

FakeDomain& FakeWorld::add_domain(const std::string& name, const std::vector<FakeDisk>& disks) {
  domains.push_back(std::make_unique<FakeDomain>());
  FakeDomain& added = *domains.back();
  added.uuid = "uuid-of-" + name;
  added.name = name;
  added.disks = disks;
  start_qemu(added);
  return added;
}

void FakeWorld::fill(FakeDomain& domain, const std::string& target, std::uint64_t blocks) {
  for (auto& disk : domain.disks) {
    if (disk.shown.target != target) continue;
    for (std::uint64_t block = 0; block < blocks; ++block) write_block(domain, disk, block);
  }
}

void FakeWorld::write_block(FakeDomain& domain, FakeDisk& disk, std::uint64_t block) {
  (void)domain;
  const auto stamp = next_stamp_++;
  image(*disk.shown.image)->blocks[block] = stamp;
  if (disk.mirror) {
    if (disk.mirror->options.synchronous_writes) {
      image(disk.mirror->options.target)->blocks[block] = stamp;
    } else {
      disk.mirror->dirty.insert(block);
    }
  }
  disk.acknowledged[block] = stamp;
  disk.counters.written_bytes += kBlockBytes;
  disk.counters.write_requests += 1;
  disk.counters.write_time_ns += 1'000'000;
}

void FakeWorld::advance(std::int64_t duration_ms) {
  for (std::int64_t i = 0; i < duration_ms; ++i) tick();
}

void FakeWorld::tick() {
  ++now_ms;
  if (now_ms % 100 == 0) end_watches();
  for (auto& domain : domains) {
    if (domain->state == DomainState::inactive) continue;
    for (auto& disk : domain->disks) {
      if (!disk.shown.image) continue;
      if (domain->state == DomainState::running) guest_writes(*domain, disk);
      if (disk.mirror) copy_some(*domain, disk);
    }
  }
}

void FakeWorld::end_watches() {
  for (auto& [name, fake] : images) {
    std::erase_if(fake.watchers, [&](const auto& watcher) { return watcher.second >= 0 && watcher.second <= now_ms; });
  }
}

void FakeWorld::guest_writes(FakeDomain& domain, FakeDisk& disk) {
  double per_s = static_cast<double>(disk.writes_per_s);
  for (const auto limit : {disk.limit.total_bytes_per_s, disk.limit.write_bytes_per_s}) {
    if (limit != 0) per_s = std::min(per_s, static_cast<double>(limit) / static_cast<double>(kBlockBytes));
  }
  disk.write_credit += per_s / 1000.0;
  while (disk.write_credit >= 1) {
    disk.write_credit -= 1;
    random_ = random_ * 6364136223846793005ULL + 1442695040888963407ULL;
    write_block(domain, disk, (random_ >> 33) % disk.span_blocks);
  }
}

void FakeWorld::copy_some(FakeDomain& domain, FakeDisk& disk) {
  FakeMirror& mirror = *disk.mirror;
  FakeImage* target = image(mirror.options.target);
  const FakeImage* source = image(*disk.shown.image);
  if (copies_stand_still) return;
  const bool fails = (copies_fail_after_bytes != 0 && mirror.copied_bytes >= copies_fail_after_bytes) ||
                     (copies_fail_when_limited && disk.limit != disk.configured_limit);
  if (mirror.ending || fails || target == nullptr) {
    if (target != nullptr) target->watchers.erase(watcher_of(domain, mirror.options.target));
    disk.mirror.reset();
    return;
  }
  if (mirror.zeroing) {
    mirror.highest_written_bytes += source->spec.size_bytes / 4;
    mirror.zeroing = mirror.highest_written_bytes < source->spec.size_bytes;
    return;
  }
  std::uint64_t rate = copy_bytes_per_s;
  if (mirror.options.bandwidth_bytes_per_s != 0) rate = std::min(rate, mirror.options.bandwidth_bytes_per_s);
  mirror.credit += static_cast<std::int64_t>(rate / 1000);
  while (mirror.credit >= static_cast<std::int64_t>(kBlockBytes) && !mirror.dirty.empty()) {
    const auto block = *mirror.dirty.begin();
    mirror.dirty.erase(mirror.dirty.begin());
    mirror.credit -= static_cast<std::int64_t>(kBlockBytes);
    mirror.highest_written_bytes = std::max(mirror.highest_written_bytes, (block + 1) * kBlockBytes);
    mirror.copied_bytes += kBlockBytes;
    const auto found = source->blocks.find(block);
    target->blocks[block] = found == source->blocks.end() ? 0 : found->second;
  }
  if (mirror.dirty.empty()) {
    mirror.credit = 0;
    mirror.ready = true;
  }
}

std::string FakeWorld::watcher_of(const FakeDomain& domain, const ImageName& image) {
  return fmt::format("qemu-{}-{}-{}", domain.name, domain.instance, to_string(image));
}

void FakeWorld::kill_qemu(FakeDomain& domain) {
  if (domain.state == DomainState::inactive) return;
  for (auto& disk : domain.disks) {
    if (!disk.shown.image) continue;
    std::vector<ImageName> open = {*disk.shown.image};
    if (disk.mirror) open.push_back(disk.mirror->options.target);
    for (const auto& name : open) {
      if (FakeImage* fake = image(name)) {
        const auto watcher = fake->watchers.find(watcher_of(domain, name));
        if (watcher != fake->watchers.end()) watcher->second = now_ms + kWatchTimeoutMs;
      }
    }
    disk.mirror.reset();
    if (domain.persistent) disk.shown.image = disk.persistent_image;
  }
  domain.state = DomainState::inactive;
}

void FakeWorld::start_qemu(FakeDomain& domain) {
  ++domain.instance;
  domain.state = DomainState::running;
  for (auto& disk : domain.disks) {
    disk.limit = disk.configured_limit;
    if (disk.shown.image && image(*disk.shown.image) != nullptr) {
      image(*disk.shown.image)->watchers[watcher_of(domain, *disk.shown.image)] = -1;
    }
  }
}

void FakeWorld::process_dies() { locked.clear(); }

void FakeWorld::host_crashes() {
  process_dies();
  for (auto& domain : domains) kill_qemu(*domain);
  std::erase_if(domains, [](const auto& domain) { return !domain->persistent; });
  std::erase_if(files, [](const auto& file) { return !file.second.is_durable; });
  for (auto& [path, file] : files) file.content = file.durable;
}

void FakeWorld::crash_at(std::uint64_t call_number, CrashWhen when) {
  crash_call_ = calls_ + call_number;
  crash_when_ = when;
}

void FakeWorld::happen_at(std::uint64_t call_number, std::function<void()> event) {
  events_[calls_ + call_number] = std::move(event);
}

void FakeWorld::begin_call() {
  ++calls_;
  if (const auto event = events_.find(calls_); event != events_.end()) event->second();
  if (crash_call_ == calls_ && crash_when_ == CrashWhen::before) throw Crash{};
}

void FakeWorld::end_call() {
  advance(1);
  if (crash_call_ == calls_) throw Crash{};
}

FakeDomain* FakeWorld::find(const std::string& name_or_uuid) {
  for (auto& domain : domains) {
    const bool is_there = domain->persistent || domain->state != DomainState::inactive;
    if (is_there && (domain->uuid == name_or_uuid || domain->name == name_or_uuid)) return domain.get();
  }
  return nullptr;
}

FakeImage* FakeWorld::image(const ImageName& name) {
  const auto found = images.find(name);
  return found == images.end() ? nullptr : &found->second;
}

std::string FakeWorld::next_id() { return fmt::format("{:012x}", ++ids_); }

namespace {

Domain shown(const FakeDomain& fake) {
  Domain domain;
  domain.uuid = fake.uuid;
  domain.name = fake.name;
  domain.state = fake.state;
  domain.persistent = fake.persistent;
  for (const auto& disk : fake.disks) {
    Disk live = disk.shown;
    if (disk.mirror) live.mirror = Mirror{disk.mirror->options.target, disk.mirror->ready, false};
    domain.disks.push_back(live);
    if (!fake.persistent) continue;
    Disk persistent = disk.shown;
    persistent.image = disk.persistent_image;
    domain.persistent_disks.push_back(persistent);
  }
  return domain;
}

class FakeHypervisor : public Hypervisor {
 public:
  explicit FakeHypervisor(FakeWorld& world) : world_(world) {}

  Result<HypervisorVersions> versions() override {
    return world_.call([&]() -> Result<HypervisorVersions> {
      if (away()) return unreachable();
      return HypervisorVersions{"9.0.0", "7.2.0", "fake:///"};
    });
  }

  Result<Domain> find_domain(const std::string& name_or_uuid) override {
    return world_.call([&]() -> Result<Domain> {
      if (away()) return unreachable();
      const FakeDomain* fake = world_.find(name_or_uuid);
      if (fake == nullptr) return not_found(fmt::format("domain '{}'", name_or_uuid));
      return shown(*fake);
    });
  }

  Result<std::vector<Domain>> list_domains() override {
    return world_.call([&]() -> Result<std::vector<Domain>> {
      if (away()) return unreachable();
      std::vector<Domain> found;
      for (const auto& domain : world_.domains) {
        if (world_.find(domain->uuid) == domain.get()) found.push_back(shown(*domain));
      }
      return found;
    });
  }

  Result<std::string> secret_value(const ClusterAccess& access) override {
    return world_.call([&]() -> Result<std::string> {
      if (away()) return unreachable();
      const auto& id = access.secret_uuid.empty() ? access.secret_usage : access.secret_uuid;
      const auto found = world_.secrets.find(id);
      if (found == world_.secrets.end()) return not_found(fmt::format("libvirt secret '{}'", id));
      return found->second;
    });
  }

  Status start_mirror(const std::string& uuid, const std::string& target, const MirrorOptions& options) override {
    return world_.call([&]() -> Status {
      return on_live_disk(uuid, target, [&](FakeDomain& domain, FakeDisk& disk) -> Status {
        if (disk.mirror) return Error{ErrorCode::busy, "the disk has a copy already", "Wait for it."};
        FakeImage* to = world_.image(options.target);
        const FakeImage* from = world_.image(*disk.shown.image);
        if (to == nullptr) return failed("the target does not exist");
        if (to->spec.size_bytes != from->spec.size_bytes) return failed("the sizes differ");
        FakeMirror mirror;
        mirror.options = options;
        mirror.zeroing = disk.shown.unmaps;
        const auto last_block = from->spec.size_bytes / kBlockBytes;
        for (std::uint64_t block = 0; block < last_block; ++block) {
          // QEMU copies every block to a target that it may not unmap.
          if (!disk.shown.unmaps || from->blocks.contains(block)) mirror.dirty.insert(block);
        }
        to->watchers[FakeWorld::watcher_of(domain, options.target)] = -1;
        disk.mirror = std::move(mirror);
        return {};
      });
    });
  }

  Result<std::optional<MirrorProgress>> mirror_progress(const std::string& uuid, const std::string& target) override {
    return world_.call([&]() -> Result<std::optional<MirrorProgress>> {
      std::optional<MirrorProgress> progress;
      auto status = on_live_disk(uuid, target, [&](FakeDomain&, FakeDisk& disk) -> Status {
        if (!disk.mirror) return {};
        const auto& mirror = *disk.mirror;
        if (mirror.zeroing) {
          progress = MirrorProgress{0, 0, mirror.highest_written_bytes};
        } else {
          progress = MirrorProgress{mirror.copied_bytes, mirror.copied_bytes + mirror.dirty.size() * kBlockBytes,
                                    mirror.highest_written_bytes};
        }
        return {};
      });
      if (!status) return status.error();
      return progress;
    });
  }

  Status set_mirror_bandwidth(const std::string& uuid, const std::string& target, std::uint64_t bytes_per_s) override {
    return world_.call([&]() -> Status {
      return on_live_disk(uuid, target, [&](FakeDomain&, FakeDisk& disk) -> Status {
        if (!disk.mirror) return failed("the disk has no copy");
        disk.mirror->options.bandwidth_bytes_per_s = bytes_per_s;
        return {};
      });
    });
  }

  Status pivot_mirror(const std::string& uuid, const std::string& target) override {
    return world_.call([&]() -> Status {
      return on_live_disk(uuid, target, [&](FakeDomain& domain, FakeDisk& disk) -> Status {
        if (!disk.mirror) return failed("the disk has no copy");
        if (!disk.mirror->ready) return failed("the copy is not ready");
        if (world_.next_pivot_fails) {
          const Error error = *world_.next_pivot_fails;
          world_.next_pivot_fails.reset();
          return error;
        }
        FakeImage* from = world_.image(*disk.shown.image);
        FakeImage* to = world_.image(disk.mirror->options.target);
        for (const auto block : disk.mirror->dirty) to->blocks[block] = from->blocks[block];
        from->watchers.erase(FakeWorld::watcher_of(domain, *disk.shown.image));
        if (disk.persistent_image == disk.shown.image && !world_.pivots_forget_definition)
          disk.persistent_image = disk.mirror->options.target;
        disk.shown.image = disk.mirror->options.target;
        disk.mirror.reset();
        return {};
      });
    });
  }

  Status cancel_mirror(const std::string& uuid, const std::string& target) override {
    return world_.call([&]() -> Status {
      return on_live_disk(uuid, target, [&](FakeDomain&, FakeDisk& disk) -> Status {
        if (disk.mirror) disk.mirror->ending = true;
        return {};
      });
    });
  }

  Result<DiskCounters> disk_counters(const std::string& uuid, const std::string& target) override {
    return world_.call([&]() -> Result<DiskCounters> {
      DiskCounters counters;
      auto status = on_live_disk(uuid, target, [&](FakeDomain&, FakeDisk& disk) -> Status {
        counters = disk.counters;
        return {};
      });
      if (!status) return status.error();
      return counters;
    });
  }

  Result<WriteLimit> write_limit(const std::string& uuid, const std::string& target) override {
    return world_.call([&]() -> Result<WriteLimit> {
      WriteLimit limit;
      auto status = on_live_disk(uuid, target, [&](FakeDomain&, FakeDisk& disk) -> Status {
        limit = disk.limit;
        return {};
      });
      if (!status) return status.error();
      return limit;
    });
  }

  Status set_write_limit(const std::string& uuid, const std::string& target, const WriteLimit& limit) override {
    return world_.call([&]() -> Status {
      return on_live_disk(uuid, target, [&](FakeDomain&, FakeDisk& disk) -> Status {
        if (limit.total_bytes_per_s != 0 && limit.write_bytes_per_s != 0) return failed("total and write limit");
        disk.limit = limit;
        return {};
      });
    });
  }

  Status grow_disk(const std::string& uuid, const std::string& target, std::uint64_t bytes) override {
    return world_.call([&]() -> Status {
      return on_live_disk(uuid, target, [&](FakeDomain&, FakeDisk& disk) -> Status {
        auto& size_bytes = world_.image(*disk.shown.image)->spec.size_bytes;
        size_bytes = std::max(size_bytes, bytes);
        return {};
      });
    });
  }

 private:
  bool away() const { return world_.now_ms < world_.hypervisor_away_until_ms; }
  static Error unreachable() { return {ErrorCode::unreachable, "libvirtd does not answer", "Start it."}; }
  static Error failed(const std::string& why) { return {ErrorCode::failed, why, "Look at libvirt's log."}; }

  template <class Body>
  Status on_live_disk(const std::string& uuid, const std::string& target, Body body) {
    if (away()) return unreachable();
    FakeDomain* domain = world_.find(uuid);
    if (domain == nullptr) return not_found(fmt::format("domain '{}'", uuid));
    if (domain->state == DomainState::inactive) return failed(fmt::format("domain '{}' is not running", domain->name));
    for (auto& disk : domain->disks) {
      if (disk.shown.target == target) return body(*domain, disk);
    }
    return not_found(fmt::format("disk '{}' of domain '{}'", target, domain->name));
  }

  FakeWorld& world_;
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
      return world_.pools[name].pool;
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
        if (open && (fake.spec.features & 4) != 0) found.lockers.push_back("client.qemu");
        found.snapshots = fake.snapshots;
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

  Result<std::uint64_t> used_bytes(const ImageName& name) override {
    return world_.call([&]() -> Result<std::uint64_t> {
      std::uint64_t used = 0;
      auto status = on_image(name, [&](FakeImage& fake) -> Status {
        used = fake.blocks.size() * kBlockBytes;
        return {};
      });
      if (!status) return status.error();
      return used;
    });
  }

  Status create_image(const ImageName& name, const ImageSpec& spec) override {
    return world_.call([&]() -> Status {
      POOLSHIFT_TRY(pool_usable(name.pool, true));
      if (world_.image(name) != nullptr) return exists(name);
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
        if (world_.image(to) != nullptr) return exists(to);
        FakeImage moved = std::move(fake);
        world_.images.erase(from);
        world_.images[to] = std::move(moved);
        return {};
      });
    });
  }

  Status resize_image(const ImageName& name, std::uint64_t size_bytes) override {
    return world_.call([&]() -> Status {
      return on_image(name, [&](FakeImage& fake) -> Status {
        fake.spec.size_bytes = size_bytes;
        std::erase_if(fake.blocks, [&](const auto& block) { return block.first * kBlockBytes >= size_bytes; });
        return {};
      });
    });
  }

  Status sparsify_image(const ImageName& name) override {
    return world_.call([&]() -> Status {
      return on_image(name, [&](FakeImage& fake) -> Status {
        std::erase_if(fake.blocks, [](const auto& block) { return block.second == 0; });
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
      return on_image(name, [&](FakeImage& fake) -> Status {
        if (!fake.watchers.empty()) return Error{ErrorCode::busy, "the image is open", "Close it."};
        world_.trash.emplace_back(name, std::move(fake));
        world_.images.erase(name);
        return {};
      });
    });
  }

 private:
  bool away() const { return world_.now_ms < world_.cluster_away_until_ms; }
  static Error unreachable() { return {ErrorCode::unreachable, "the cluster does not answer", "Look at it."}; }
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

  FakeWorld& world_;
  std::string fsid_;
};

class FakeStorage : public Storage {
 public:
  explicit FakeStorage(FakeWorld& world) : world_(world) {}

  Result<std::unique_ptr<Cluster>> connect(const ClusterAccess& access, const std::string& key) override {
    return world_.call([&]() -> Result<std::unique_ptr<Cluster>> {
      if (world_.now_ms < world_.cluster_away_until_ms) {
        return Error{ErrorCode::unreachable, "the cluster does not answer", "Look at it."};
      }
      if (access.conf_path.empty() && key != "key") {
        return Error{ErrorCode::denied, fmt::format("the cluster refuses user '{}'", access.user), "Check the key."};
      }
      const auto by_conf = world_.fsid_by_conf.find(access.conf_path);
      const auto fsid = by_conf == world_.fsid_by_conf.end() ? world_.fsid : by_conf->second;
      return std::unique_ptr<Cluster>(std::make_unique<FakeCluster>(world_, fsid));
    });
  }

  std::string version() override { return "16.2.0"; }

 private:
  FakeWorld& world_;
};

class FakeLock : public FileLock {
 public:
  FakeLock(FakeWorld& world, std::string path) : world_(world), path_(std::move(path)) {}
  ~FakeLock() override { world_.locked.erase(path_); }
  FakeLock(const FakeLock&) = delete;
  FakeLock& operator=(const FakeLock&) = delete;

 private:
  FakeWorld& world_;
  std::string path_;
};

class FakeSystem : public System {
 public:
  explicit FakeSystem(FakeWorld& world) : world_(world) {}

  std::int64_t monotonic_ms() override { return world_.now_ms; }
  std::int64_t wall_clock_ms() override { return 1'700'000'000'000 + world_.now_ms; }
  void sleep_ms(std::int64_t duration_ms) override {
    world_.call([&] {
      world_.advance(duration_ms);
      return true;
    });
  }
  std::string random_id() override { return world_.next_id(); }

  Status make_folder(const std::string&) override { return {}; }

  Result<std::vector<std::string>> list_folder(const std::string& path) override {
    return world_.call([&]() -> Result<std::vector<std::string>> {
      std::vector<std::string> names;
      const auto prefix = path + "/";
      for (const auto& [name, file] : world_.files) {
        if (name.starts_with(prefix)) names.push_back(name.substr(prefix.size()));
      }
      return names;
    });
  }

  Result<std::string> read_file(const std::string& path, std::uint64_t limit_bytes) override {
    return world_.call([&]() -> Result<std::string> {
      const auto found = world_.files.find(path);
      if (found == world_.files.end()) return not_found(path);
      if (found->second.content.size() > limit_bytes) return Error{ErrorCode::failed, "the file is too long", ""};
      return found->second.content;
    });
  }

  Status create_file(const std::string& path, const std::string& content) override {
    return world_.call([&]() -> Status {
      if (world_.files.contains(path)) return Error{ErrorCode::exists, path + " exists", ""};
      if (!world_.torn_now()) world_.files[path] = {content, content, true};
      return {};
    });
  }

  Status append_file(const std::string& path, const std::string& content) override {
    return world_.call([&]() -> Status {
      const auto found = world_.files.find(path);
      if (found == world_.files.end()) return not_found(path);
      FakeFile& file = found->second;
      file.content += world_.torn_now() ? content.substr(0, content.size() / 2) : content;
      file.durable = file.content;
      file.is_durable = true;
      return {};
    });
  }

  Status truncate_file(const std::string& path, std::uint64_t size_bytes) override {
    return world_.call([&]() -> Status {
      const auto found = world_.files.find(path);
      if (found == world_.files.end()) return not_found(path);
      FakeFile& file = found->second;
      file.content.resize(size_bytes);
      file.durable = file.content;
      return {};
    });
  }

  Status replace_file(const std::string& path, const std::string& content) override {
    return world_.call([&]() -> Status {
      world_.files[path].content = content;
      return {};
    });
  }

  Status remove_file(const std::string& path) override {
    return world_.call([&]() -> Status {
      world_.files.erase(path);
      return {};
    });
  }

  Result<std::unique_ptr<FileLock>> lock_file(const std::string& path) override {
    return world_.call([&]() -> Result<std::unique_ptr<FileLock>> {
      if (!world_.locked.insert(path).second) return Error{ErrorCode::busy, path + " is locked", ""};
      return std::unique_ptr<FileLock>(std::make_unique<FakeLock>(world_, path));
    });
  }

 private:
  FakeWorld& world_;
};

}  // namespace

std::unique_ptr<Hypervisor> FakeWorld::hypervisor() { return std::make_unique<FakeHypervisor>(*this); }
std::unique_ptr<Storage> FakeWorld::storage() { return std::make_unique<FakeStorage>(*this); }
std::unique_ptr<System> FakeWorld::system() { return std::make_unique<FakeSystem>(*this); }

}  // namespace poolshift::fakes
