#include <fmt/core.h>

#include <algorithm>
#include <type_traits>

#include "fakes/fake_world.h"

namespace poolshift::fakes {
namespace {

Error not_found(const std::string& what) {
  return {ErrorCode::not_found, fmt::format("{} does not exist", what), "Check the name."};
}

void show_source(Disk& disk, const std::optional<ImageName>& image, const std::string& overlay_path) {
  disk.image = image;
  if (!overlay_path.empty()) {
    disk.image.reset();
    disk.access = {};
    disk.has_overlay = true;  // also in the definition: libvirt writes the chain there
    disk.file_path = overlay_path;
    disk.described_source = "file:" + overlay_path;
  } else if (image) {
    disk.described_source = "rbd:" + to_string(*image);
  }
}

Domain shown(const FakeDomain& fake) {
  Domain domain;
  domain.uuid = fake.uuid;
  domain.name = fake.name;
  domain.state = fake.state;
  domain.persistent = fake.persistent;
  domain.has_saved_state = fake.has_saved_state && fake.state == DomainState::inactive;
  domain.of_openstack = fake.of_openstack;
  for (const auto& disk : fake.disks) {
    Disk live = disk.shown;
    if (disk.mirror) live.mirror = Mirror{disk.mirror->options.target, disk.mirror->ready, false};
    live.commits = disk.commit.has_value();
    show_source(live, disk.shown.image, disk.overlay ? disk.overlay->path : "");
    const bool is_changed = !disk.changed_by_switch.empty() && disk.shown.image != disk.original;
    if (is_changed && !disk.changes_only_definition) live.comparable_xml = disk.changed_by_switch;
    domain.disks.push_back(live);
    if (!fake.persistent) continue;
    Disk persistent = disk.shown;
    show_source(persistent, disk.persistent_image, disk.persistent_overlay);
    if (is_changed) persistent.comparable_xml = disk.changed_by_switch;
    domain.persistent_disks.push_back(persistent);
  }
  return domain;
}

class FakeHypervisor : public Hypervisor {
 public:
  FakeHypervisor(FakeWorld& world, bool of_guardian) : world_(world), of_guardian_(of_guardian) {}

  Result<HypervisorVersions> versions() override {
    return call([&]() -> Result<HypervisorVersions> {
      if (away()) return unreachable();
      return world_.versions;
    });
  }

  Result<Domain> find_domain(const std::string& name_or_uuid) override {
    return call([&]() -> Result<Domain> {
      if (away()) return unreachable();
      const FakeDomain* fake = world_.find(name_or_uuid);
      if (fake == nullptr) return not_found(fmt::format("domain '{}'", name_or_uuid));
      return shown(*fake);
    });
  }

  Result<std::vector<Domain>> list_domains() override {
    return call([&]() -> Result<std::vector<Domain>> {
      if (away()) return unreachable();
      std::vector<Domain> found;
      for (const auto& domain : world_.domains) {
        if (world_.find(domain->uuid) == domain.get()) found.push_back(shown(*domain));
      }
      return found;
    });
  }

  Result<std::string> secret_value(const ClusterAccess& access) override {
    return call([&]() -> Result<std::string> {
      if (away()) return unreachable();
      const auto& id = access.secret_uuid.empty() ? access.secret_usage : access.secret_uuid;
      const auto found = world_.secrets.find(id);
      if (found == world_.secrets.end()) return not_found(fmt::format("libvirt secret '{}'", id));
      return found->second;
    });
  }

  Status start_mirror(const std::string& uuid, const std::string& target, const MirrorOptions& options) override {
    return call([&]() -> Status {
      return on_live_disk(uuid, target, [&](FakeDomain& domain, FakeDisk& disk) -> Status {
        if (disk.mirror || disk.commit) return busy("the disk has a job already");
        FakeImage* to = world_.image(options.target);
        const FakeImage* from = world_.image(*disk.shown.image);
        if (to == nullptr) return failed("the target does not exist");
        if (to->spec.size_bytes != from->spec.size_bytes) return failed("the sizes differ");
        FakeMirror mirror;
        mirror.options = options;
        // Without an overlay there is no chain, and libvirt drops the flag.
        const bool shallow = options.shallow && disk.overlay;
        mirror.zeroing = disk.shown.unmaps && !shallow;
        const auto last_block = from->spec.size_bytes / kBlockBytes;
        for (std::uint64_t block = 0; block < last_block; ++block) {
          const bool in_overlay = disk.overlay && disk.overlay->file->blocks.contains(block);
          // QEMU copies every block to a target that it may not unmap.
          const bool below = !shallow && (!disk.shown.unmaps || world_.stored(*from, block));
          if (in_overlay || below) mirror.dirty.insert(block);
        }
        to->watchers[FakeWorld::watcher_of(domain, options.target)] = -1;
        disk.mirror = std::move(mirror);
        disk.latest_mirror = options;
        return {};
      });
    });
  }

  Result<std::optional<MirrorProgress>> mirror_progress(const std::string& uuid, const std::string& target) override {
    return call([&]() -> Result<std::optional<MirrorProgress>> {
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
    return call([&]() -> Status {
      return on_live_disk(uuid, target, [&](FakeDomain&, FakeDisk& disk) -> Status {
        if (!disk.mirror) return failed("the disk has no copy");
        disk.mirror->options.bandwidth_bytes_per_s = bytes_per_s;
        return {};
      });
    });
  }

  Status pivot_mirror(const std::string& uuid, const std::string& target) override {
    return call([&]() -> Status {
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
        for (const auto block : disk.mirror->dirty) world_.store(*to, block, world_.read(disk, block));
        from->watchers.erase(FakeWorld::watcher_of(domain, *disk.shown.image));
        if (is_defined_as_it_runs(disk) && !world_.pivots_forget_definition) {
          disk.persistent_image = disk.mirror->options.target;
          disk.persistent_overlay.clear();
        }
        disk.shown.image = disk.mirror->options.target;
        disk.overlay.reset();
        disk.mirror.reset();
        return {};
      });
    });
  }

  Status cancel_mirror(const std::string& uuid, const std::string& target) override {
    return call([&]() -> Status {
      return on_live_disk(uuid, target, [&](FakeDomain&, FakeDisk& disk) -> Status {
        if (disk.mirror) disk.mirror->ending = true;
        return {};
      });
    });
  }

  Status suspend(const std::string& uuid) override { return set_running(uuid, DomainState::paused); }
  Status resume(const std::string& uuid) override { return set_running(uuid, DomainState::running); }

  Status insert_overlay(const std::string& uuid, const std::string& target, const std::string& path) override {
    return call([&]() -> Status {
      return on_live_disk(uuid, target, [&](FakeDomain& domain, FakeDisk& disk) -> Status {
        if (disk.mirror || disk.commit) return busy("the disk has a job already");
        if (disk.overlay) return failed("the disk has an overlay already");
        const auto file = world_.files.find(path);
        if (file == world_.files.end() || !file->second.qcow2) return failed(path + " is no qcow2 file");
        if (file->second.qcow2->size_bytes != world_.image(*disk.shown.image)->spec.size_bytes) {
          return failed("the overlay's size is not the disk's");
        }
        if (domain.persistent && is_defined_as_it_runs(disk)) disk.persistent_overlay = path;
        disk.overlay = FakeOverlay{path, file->second.qcow2};
        return {};
      });
    });
  }

  Status commit_overlay(const std::string& uuid, const std::string& target) override {
    return call([&]() -> Status {
      return on_disk(uuid, target, [&](FakeDomain& domain, FakeDisk& disk) -> Status {
        if (!disk.overlay) return {};
        if (!has_qemu(domain)) return not_running(domain);
        if (disk.mirror) return busy("the disk has a copy");
        if (!disk.commit) {
          disk.commit.emplace();
          for (const auto& [block, stamp] : disk.overlay->file->blocks) disk.commit->dirty.insert(block);
          return {};
        }
        if (!disk.commit->ready) return {};
        for (const auto block : disk.commit->dirty) {
          world_.store(*world_.image(*disk.shown.image), block, world_.read(disk, block));
        }
        if (is_defined_as_it_runs(disk) && !world_.pivots_forget_definition) disk.persistent_overlay.clear();
        disk.overlay.reset();
        disk.commit.reset();
        return {};
      });
    });
  }

  Status redefine_disk(const std::string& uuid, const std::string& target, const ImageName& image,
                       const ClusterAccess& access) override {
    return call([&]() -> Status {
      return on_disk(uuid, target, [&](FakeDomain& domain, FakeDisk& disk) -> Status {
        if (!domain.persistent) return failed(fmt::format("domain '{}' is transient", domain.name));
        disk.persistent_image = image;
        disk.persistent_overlay.clear();
        if (has_qemu(domain)) return {};
        disk.overlay.reset();
        disk.shown.image = image;
        disk.shown.access = access;
        return {};
      });
    });
  }

  Result<DiskCounters> disk_counters(const std::string& uuid, const std::string& target) override {
    return call([&]() -> Result<DiskCounters> {
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
    return call([&]() -> Result<WriteLimit> {
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
    return call([&]() -> Status {
      return on_live_disk(uuid, target, [&](FakeDomain&, FakeDisk& disk) -> Status {
        if (limit.total_bytes_per_s != 0 && limit.write_bytes_per_s != 0) return failed("total and write limit");
        disk.limit = limit;
        return {};
      });
    });
  }

  Status grow_disk(const std::string& uuid, const std::string& target, std::uint64_t bytes) override {
    return call([&]() -> Status {
      return on_live_disk(uuid, target, [&](FakeDomain&, FakeDisk& disk) -> Status {
        if (disk.overlay) return failed("only the overlay would grow");
        auto& size_bytes = world_.image(*disk.shown.image)->spec.size_bytes;
        size_bytes = std::max(size_bytes, bytes);
        return {};
      });
    });
  }

 private:
  template <class Body>
  std::invoke_result_t<Body&> call(Body body) {
    return of_guardian_ ? world_.guardian_call(body) : world_.call(body);
  }

  bool away() const { return world_.now_ms < world_.hypervisor_away_until_ms; }
  static Error unreachable() { return {ErrorCode::unreachable, "libvirtd does not answer", "Start it."}; }
  static Error failed(const std::string& why) { return {ErrorCode::failed, why, "Look at libvirt's log."}; }
  static Error busy(const std::string& why) { return {ErrorCode::busy, why, "Wait for it."}; }

  // libvirt changes the definition together with the live disk only when both have the same source.
  static bool is_defined_as_it_runs(const FakeDisk& disk) {
    return disk.persistent_image == disk.shown.image &&
           disk.persistent_overlay == (disk.overlay ? disk.overlay->path : "");
  }

  template <class Body>
  Status on_domain(const std::string& uuid, Body body) {
    if (away()) return unreachable();
    FakeDomain* domain = world_.find(uuid);
    if (domain == nullptr) return not_found(fmt::format("domain '{}'", uuid));
    return body(*domain);
  }

  template <class Body>
  Status on_disk(const std::string& uuid, const std::string& target, Body body) {
    return on_domain(uuid, [&](FakeDomain& domain) -> Status {
      for (auto& disk : domain.disks) {
        if (disk.shown.target == target) return body(domain, disk);
      }
      return not_found(fmt::format("disk '{}' of domain '{}'", target, domain.name));
    });
  }

  template <class Body>
  Status on_live_disk(const std::string& uuid, const std::string& target, Body body) {
    return on_domain(uuid, [&](FakeDomain& domain) -> Status {
      if (!has_qemu(domain)) return not_running(domain);
      return on_disk(uuid, target, body);
    });
  }

  Status set_running(const std::string& uuid, DomainState state) {
    return call([&]() -> Status {
      return on_domain(uuid, [&](FakeDomain& domain) -> Status {
        if (!has_qemu(domain)) return not_running(domain);
        domain.state = state;
        return {};
      });
    });
  }

  static bool has_qemu(const FakeDomain& domain) { return domain.state != DomainState::inactive; }
  static Error not_running(const FakeDomain& domain) {
    return failed(fmt::format("domain '{}' is not running", domain.name));
  }

  FakeWorld& world_;
  bool of_guardian_;
};

}  // namespace

std::unique_ptr<Hypervisor> make_fake_hypervisor(FakeWorld& world, bool of_guardian) {
  return std::make_unique<FakeHypervisor>(world, of_guardian);
}

}  // namespace poolshift::fakes
