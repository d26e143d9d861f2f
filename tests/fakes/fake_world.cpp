#include "fakes/fake_world.h"

#include <fmt/core.h>

#include <algorithm>

#include "base/paths.h"
#include "base/version.h"

namespace poolshift::fakes {

namespace {

constexpr std::int64_t kWatchTimeoutMs = 30'000;
constexpr std::int64_t kGuardianRetryMs = 100;
constexpr std::int64_t kRollbackMs = 5'000;

}  // namespace

FakeWorld::FakeWorld() {
  for (const auto* name : {"volumes-hdd", "volumes-ssd"}) {
    FakePool& fake = pools[name];
    fake.pool.id = static_cast<std::int64_t>(pools.size());
    fake.pool.has_application_rbd = true;
    fake.pool.max_avail_bytes = 1ULL << 40;
  }
  secrets["secret"] = "key";
  program_versions["qemu-img"] = "qemu-img version 7.2.19";
  program_versions[kGuardianPath] = std::string("poolshift-guardian ") + kVersion;
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
  disk.original = image;
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
  if (disk.overlay) {
    disk.overlay->file->blocks[block] = stamp;
    // The guest's flush makes the file itself durable too.
    if (const auto file = files.find(disk.overlay->path); file != files.end()) file->second.is_durable = true;
    if (disk.commit) disk.commit->dirty.insert(block);
  } else {
    store(*image(*disk.shown.image), block, stamp);
  }
  if (disk.mirror) disk.mirror->dirty.insert(block);
  disk.acknowledged[block] = stamp;
  disk.counters.written_bytes += kBlockBytes;
  disk.counters.write_requests += 1;
  disk.counters.write_time_ns +=
      static_cast<std::uint64_t>(1'000'000 * (1 + slowdown_per_offload * static_cast<double>(offloads_under_way)));
}

std::optional<std::uint64_t> FakeWorld::stored(const FakeLayer& layer, std::uint64_t block) const {
  const auto object = block / kObjectBlocks;
  if (!layer.unmapped.contains(object) && has_object(layer, object)) {
    const auto found = layer.blocks.find(block);
    return found == layer.blocks.end() ? std::nullopt : std::optional(found->second);
  }
  if (block * kBlockBytes >= layer.parent_bytes) return std::nullopt;
  const auto* parent = snapshot(layer.parent);
  return parent == nullptr ? std::nullopt : stored(*parent, block);
}

std::uint64_t FakeWorld::read(const ImageName& name, std::uint64_t block) const {
  const auto* fake = image(name);
  return fake == nullptr ? 0 : stored(*fake, block).value_or(0);
}

std::uint64_t FakeWorld::read(const FakeDisk& disk, std::uint64_t block) const {
  if (disk.overlay && disk.overlay->file) {
    const auto& blocks = disk.overlay->file->blocks;
    if (const auto found = blocks.find(block); found != blocks.end()) return found->second;
  }
  return disk.shown.image ? read(*disk.shown.image, block) : 0;
}

Usage FakeWorld::usage(const FakeLayer& layer) const {
  const auto own_blocks = layer.blocks.empty() ? 0 : layer.blocks.rbegin()->first + 1;
  const auto end = std::max(own_blocks, (layer.parent_bytes + kBlockBytes - 1) / kBlockBytes);
  Usage usage;
  std::uint64_t next_object = 0;
  for (std::uint64_t block = 0; block < end; ++block) {
    if (!stored(layer, block)) continue;
    usage.bytes += kBlockBytes;
    if (block / kObjectBlocks >= next_object) ++usage.objects;
    next_object = block / kObjectBlocks + 1;
  }
  return usage;
}

bool FakeWorld::is_open(const FakeImage& image) {
  return std::any_of(image.watchers.begin(), image.watchers.end(), [](const auto& each) { return each.second < 0; });
}

bool FakeWorld::has_object(const FakeLayer& layer, std::uint64_t object) {
  const auto first = layer.blocks.lower_bound(object * kObjectBlocks);
  return first != layer.blocks.end() && first->first < (object + 1) * kObjectBlocks;
}

std::vector<std::uint64_t> FakeWorld::objects_of(const FakeLayer& layer) {
  std::vector<std::uint64_t> objects;
  for (const auto& [block, stamp] : layer.blocks) {
    if (objects.empty() || objects.back() != block / kObjectBlocks) objects.push_back(block / kObjectBlocks);
  }
  return objects;
}

void FakeWorld::store(FakeImage& image, std::uint64_t block, std::uint64_t stamp) {
  const auto object = block / kObjectBlocks;
  copy_up(image, object);
  image.unmapped.erase(object);
  image.mapped_in_vain.erase(object);
  image.blocks[block] = stamp;
}

void FakeWorld::end_flattening(FakeImage& image) {
  const auto object = image.flattened_objects;
  if (image.flattening && (image.spec.features & kFeatureObjectMap) != 0 && !has_object(image, object) &&
      !inherited(image, object).empty()) {
    image.mapped_in_vain.insert(object);
  }
  image.flattening = false;
}

std::map<std::uint64_t, std::uint64_t> FakeWorld::inherited(const FakeImage& image, std::uint64_t object) const {
  std::map<std::uint64_t, std::uint64_t> blocks;
  for (auto block = object * kObjectBlocks; block < (object + 1) * kObjectBlocks; ++block) {
    if (const auto stamp = stored(image, block)) blocks[block] = *stamp;
  }
  return blocks;
}

void FakeWorld::copy_up(FakeImage& image, std::uint64_t object) {
  if (image.parent.empty() || has_object(image, object)) return;
  image.blocks.merge(inherited(image, object));
}

std::uint64_t FakeWorld::objects_of_parent(const FakeLayer& layer) {
  constexpr auto kObjectBytes = kObjectBlocks * kBlockBytes;
  return (layer.parent_bytes + kObjectBytes - 1) / kObjectBytes;
}

const FakeSnapshot* FakeWorld::snapshot(const std::string& name) const {
  const auto at = name.rfind('@');
  const auto parsed = parse_image_name(name.substr(0, at));
  if (at == std::string::npos || !parsed) return nullptr;
  const auto find_in = [&](const FakeImage& fake) -> const FakeSnapshot* {
    const auto found = fake.frozen.find(name.substr(at + 1));
    return found == fake.frozen.end() ? nullptr : &found->second;
  };
  if (const auto* fake = image(*parsed); fake != nullptr && find_in(*fake) != nullptr) return find_in(*fake);
  for (const auto& [trashed, fake] : trash) {
    if (trashed == *parsed && find_in(fake) != nullptr) return find_in(fake);
  }
  return nullptr;
}

bool FakeWorld::has_clones(const std::string& snapshot) const {
  const auto is_clone = [&](const auto& each) {
    const FakeImage& fake = each.second;
    return fake.parent == snapshot || std::any_of(fake.frozen.begin(), fake.frozen.end(),
                                                  [&](const auto& frozen) { return frozen.second.parent == snapshot; });
  };
  return std::any_of(images.begin(), images.end(), is_clone) || std::any_of(trash.begin(), trash.end(), is_clone);
}

void FakeWorld::rename_parent(const ImageName& from, const ImageName& to) {
  const auto prefix = to_string(from) + "@";
  const auto rename_in = [&](FakeLayer& layer) {
    if (layer.parent.starts_with(prefix)) layer.parent = to_string(to) + "@" + layer.parent.substr(prefix.size());
  };
  for (auto& [name, fake] : images) {
    rename_in(fake);
    for (auto& [snap, frozen] : fake.frozen) rename_in(frozen);
  }
}

const std::string& FakeWorld::data_pool(const ImageName& name, const FakeImage& image) {
  return image.spec.data_pool.empty() ? name.pool : image.spec.data_pool;
}

bool FakeWorld::is_full(const std::string& pool) const {
  const auto found = pools.find(pool);
  if (found == pools.end()) return false;
  const auto& fake = found->second.pool;
  if (fake.full || fake.quota_bytes == 0) return fake.full;
  std::uint64_t blocks = 0;
  for (const auto& [name, each] : images) {
    if (data_pool(name, each) == pool) blocks += each.blocks.size();
  }
  return blocks * kBlockBytes >= fake.quota_bytes;
}

void FakeWorld::advance(std::int64_t duration_ms) {
  const auto until_ms = now_ms + duration_ms;
  while (now_ms < until_ms) tick();  // a guardian that acts in a tick takes time of its own
}

void FakeWorld::tick() {
  ++now_ms;
  if (now_ms % 100 == 0) end_watches();
  for (auto& domain : domains) {
    domain->paused_ms = domain->state == DomainState::paused ? domain->paused_ms + 1 : 0;
    domain->longest_pause_ms = std::max(domain->longest_pause_ms, domain->paused_ms);
    if (domain->state == DomainState::inactive) continue;
    for (auto& disk : domain->disks) {
      if (!disk.shown.image) continue;
      if (domain->state == DomainState::running) guest_writes(*domain, disk);
      if (disk.mirror) copy_some(*domain, disk);
      if (disk.commit) commit_some(disk);
    }
  }
  flatten_some();
  watch_over_guests();
}

void FakeWorld::end_watches() {
  for (auto& [name, fake] : images) {
    std::erase_if(fake.watchers, [&](const auto& watcher) { return watcher.second >= 0 && watcher.second <= now_ms; });
  }
}

void FakeWorld::guest_writes(FakeDomain& domain, FakeDisk& disk) {
  const auto& name = *disk.shown.image;
  // A write to a full pool is held up until there is room.
  if (!disk.overlay && image(name) != nullptr && is_full(data_pool(name, *image(name)))) return;
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
    store(*target, block, read(disk, block));
  }
  if (mirror.dirty.empty()) {
    mirror.credit = 0;
    mirror.ready = true;
  }
}

void FakeWorld::commit_some(FakeDisk& disk) {
  for (const auto block : disk.commit->dirty) store(*image(*disk.shown.image), block, read(disk, block));
  disk.commit->dirty.clear();
  disk.commit->ready = true;
}

void FakeWorld::flatten_some() {
  if (now_ms < cluster_away_until_ms) return;
  for (auto& [name, fake] : images) {
    if (!fake.flattening || is_full(data_pool(name, fake))) continue;
    if (fake.flattened_objects < objects_of_parent(fake)) {
      // An object that is there wins over the copy from the parent.
      const auto object = fake.flattened_objects++;
      if (fake.mapped_in_vain.contains(object)) continue;
      copy_up(fake, object);
      fake.unmapped.erase(object);
    } else {
      fake.parent.clear();
      fake.parent_bytes = 0;
      fake.flattening = false;
    }
  }
}

void FakeWorld::watch_over_guests() {
  if (guardian_acts_ || guardians.empty()) return;
  const auto living = guardians;
  for (const auto& guardian : living) watch_over_guest(guardian);
}

// What guardian/main.cpp does.
void FakeWorld::watch_over_guest(const std::shared_ptr<FakeGuardian>& guardian) {
  FakeGuardian& it = *guardian;
  const bool begun = it.begun_ms >= 0;
  if (!it.acts) {
    if (it.is_told || (!it.owner_is_alive && !begun)) return end_guardian(guardian);
    const bool is_late = begun && now_ms - it.begun_ms >= it.order.max_pause_ms;
    if (it.owner_is_alive && (!is_late || it.has_stepped_in)) return;
    it.acts = it.has_stepped_in = true;
    if (!it.owner_is_alive) it.looks_again_until_ms = now_ms + guardians_look_again_ms;
  }
  if (now_ms < it.next_try_ms) return;
  it.next_try_ms = now_ms + kGuardianRetryMs;
  guardian_acts_ = true;
  const auto its_hypervisor = make_fake_hypervisor(*this, true);
  const auto its_system = make_fake_system(*this, true);
  const bool runs = let_guest_run(*its_hypervisor, *its_system, it.order, kRollbackMs).ok();
  guardian_acts_ = false;
  if (!runs || now_ms < it.looks_again_until_ms) return;
  it.acts = false;
  if (it.looks_again_until_ms >= 0) end_guardian(guardian);
}

void FakeWorld::end_guardian(const std::shared_ptr<FakeGuardian>& guardian) {
  if (std::erase(guardians, guardian) == 0) return;
  if (!locked_by_process_.contains(guardian->lock_path)) locked.erase(guardian->lock_path);
}

bool FakeWorld::lock(const std::string& path) {
  if (!locked.insert(path).second) return false;
  locked_by_process_.insert(path);
  return true;
}

void FakeWorld::unlock(const std::string& path) {
  locked_by_process_.erase(path);
  const bool is_shared = std::any_of(guardians.begin(), guardians.end(),
                                     [&](const auto& guardian) { return guardian->lock_path == path; });
  if (!is_shared) locked.erase(path);
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
        end_flattening(*fake);
      }
    }
    disk.mirror.reset();
    disk.commit.reset();
    disk.overlay.reset();
    if (!domain.persistent) continue;
    disk.shown.image = disk.persistent_image;
    if (!disk.persistent_overlay.empty()) {
      const auto file = files.find(disk.persistent_overlay);
      disk.overlay = FakeOverlay{disk.persistent_overlay, file == files.end() ? nullptr : file->second.qcow2};
    }
  }
  domain.state = DomainState::inactive;
}

void FakeWorld::shut_down(FakeDomain& domain) {
  if (domain.state == DomainState::inactive) return;
  const auto open = domain.disks;
  for (const auto& disk : open) {
    // A client that closes an image ends first what it is at.
    if (FakeImage* fake = disk.shown.image ? image(*disk.shown.image) : nullptr) fake->flattening = false;
  }
  kill_qemu(domain);
  for (const auto& disk : open) {
    if (!disk.shown.image) continue;
    if (FakeImage* fake = image(*disk.shown.image)) fake->watchers.erase(watcher_of(domain, *disk.shown.image));
  }
}

void FakeWorld::start_qemu(FakeDomain& domain) {
  for (auto& disk : domain.disks) {
    if (disk.persistent_overlay.empty()) continue;
    const auto file = files.find(disk.persistent_overlay);
    if (file == files.end() || !file->second.qcow2) return;
    disk.overlay = FakeOverlay{disk.persistent_overlay, file->second.qcow2};
  }
  for (const auto& disk : domain.disks) {
    if (disk.shown.image && image(*disk.shown.image) == nullptr) return;
  }
  ++domain.instance;
  domain.state = DomainState::running;
  for (auto& disk : domain.disks) {
    disk.limit = disk.configured_limit;
    if (disk.shown.image && image(*disk.shown.image) != nullptr) {
      image(*disk.shown.image)->watchers[watcher_of(domain, *disk.shown.image)] = -1;
    }
  }
}

void FakeWorld::process_dies() {
  locked.clear();
  locked_by_process_.clear();
  if (guardians_die_too) guardians.clear();
  for (const auto& guardian : guardians) {
    guardian->owner_is_alive = false;
    locked.insert(guardian->lock_path);
  }
  // What runs in the client that has the image open goes on.
  for (auto& [name, fake] : images) {
    if (!is_open(fake)) end_flattening(fake);
  }
}

void FakeWorld::host_crashes() {
  guardians.clear();
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

void FakeWorld::hang_at(std::uint64_t call_number, std::int64_t duration_ms, CrashWhen when) {
  hangs_[calls_ + call_number] = {duration_ms, when};
}

void FakeWorld::fail_at(std::uint64_t call_number, Fault fault) {
  fault_call_ = calls_ + call_number;
  fault_ = std::move(fault);
  fault_is_hit_ = false;
}

bool FakeWorld::has_fault(std::uint64_t number, Kind kind, CrashWhen when) const {
  if (!fault_ || fault_->when != when || fault_->of_files != (kind == Kind::writes_file)) return false;
  return fault_->lasts ? number >= fault_call_ : number == fault_call_;
}

Error FakeWorld::meet_fault() {
  fault_is_hit_ = true;
  advance(fault_->silent_ms);
  return fault_->error;
}

std::uint64_t FakeWorld::begin_call() {
  const auto number = ++calls_;
  if (number > most_calls) throw Endless{};
  if (const auto event = events_.find(number); event != events_.end()) event->second();
  if (const auto hang = hangs_.find(number); hang != hangs_.end() && hang->second.when == CrashWhen::before) {
    advance(hang->second.duration_ms);
  }
  if (crash_call_ == number && crash_when_ == CrashWhen::before) throw Crash{};
  return number;
}

void FakeWorld::end_call(std::uint64_t number) {
  advance(1);
  if (const auto hang = hangs_.find(number); hang != hangs_.end() && hang->second.when != CrashWhen::before) {
    advance(hang->second.duration_ms);
  }
  if (crash_call_ == number) throw Crash{};
}

FakeDomain* FakeWorld::find(const std::string& name_or_uuid) {
  for (auto& domain : domains) {
    const bool is_there = domain->persistent || domain->state != DomainState::inactive;
    if (is_there && (domain->uuid == name_or_uuid || domain->name == name_or_uuid)) return domain.get();
  }
  return nullptr;
}

FakeImage* FakeWorld::image(const ImageName& name) {
  const auto also = half_renamed.find(name);
  const auto found = images.find(also == half_renamed.end() ? name : also->second);
  return found == images.end() ? nullptr : &found->second;
}

const FakeImage* FakeWorld::image(const ImageName& name) const {
  const auto also = half_renamed.find(name);
  const auto found = images.find(also == half_renamed.end() ? name : also->second);
  return found == images.end() ? nullptr : &found->second;
}

std::string FakeWorld::next_id() { return fmt::format("{:012x}", ++ids_); }

std::unique_ptr<Hypervisor> FakeWorld::hypervisor() { return make_fake_hypervisor(*this, false); }
std::unique_ptr<Storage> FakeWorld::storage() { return make_fake_storage(*this); }
std::unique_ptr<System> FakeWorld::system() { return make_fake_system(*this, false); }

}  // namespace poolshift::fakes
