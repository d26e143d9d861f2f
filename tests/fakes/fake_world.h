// The world behind the ports, for tests without servers: a cluster, a hypervisor with writing guests, files, time.
// It lives on when the process that uses the ports dies, and forgets what a crash forgets.
//
// tests/contract holds these fakes and the real adapters to the same cases.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "ports/hypervisor.h"
#include "ports/storage.h"
#include "ports/system.h"

namespace poolshift::fakes {

inline constexpr std::uint64_t kBlockBytes = 4096;

// Thrown out of a port call: the process dies here. Nothing may catch it but the test.
struct Crash {};

struct FakeImage {
  std::string id;
  ImageSpec spec;
  std::map<std::uint64_t, std::uint64_t> blocks;  // block number to stamp; there: allocated; 0: zeroes
  std::map<std::string, std::int64_t> watchers;   // address to the time at which the watch ends; -1: alive
  std::vector<std::string> lockers;
  std::vector<std::string> snapshots;
  std::string parent;
  std::string group;
  bool migrating = false;
  bool mirroring = false;
};

struct FakeMirror {
  MirrorOptions options;
  std::set<std::uint64_t> dirty;  // blocks that the target does not have yet
  std::uint64_t copied_bytes = 0;
  std::uint64_t highest_written_bytes = 0;
  bool zeroing = false;
  bool ready = false;
  bool ending = false;      // cancelled: gone at the next tick
  std::int64_t credit = 0;  // bytes that the bandwidth still allows
};

struct FakeDisk {
  Disk shown;  // what the XML says; `image` is what QEMU writes to while it is alive
  std::optional<ImageName> persistent_image;
  std::optional<FakeMirror> mirror;
  WriteLimit limit;
  WriteLimit configured_limit;  // of the definition: what each start of QEMU begins with
  DiskCounters counters;
  // The guest: so many random blocks a second among the first `span_blocks`.
  std::uint64_t writes_per_s = 0;
  std::uint64_t span_blocks = 16;
  double write_credit = 0;
  std::map<std::uint64_t, std::uint64_t> acknowledged;  // block to the stamp of its last acknowledged write
};

struct FakeDomain {
  std::string uuid;
  std::string name;
  DomainState state = DomainState::running;
  bool persistent = true;
  int instance = 0;  // of QEMU; another one after each start
  std::vector<FakeDisk> disks;
};

struct FakePool {
  Pool pool;
  bool allowed = true;
};

struct FakeFile {
  std::string content;
  std::string durable;
  bool is_durable = false;
};

class FakeWorld {
 public:
  FakeWorld();

  // --- the ports, as one process sees them
  std::unique_ptr<Hypervisor> hypervisor();
  std::unique_ptr<Storage> storage();
  std::unique_ptr<System> system();

  // --- what a test sets up
  FakeImage& add_image(const ImageName& name, std::uint64_t size_bytes);
  FakeDomain& add_domain(const std::string& name, const std::vector<FakeDisk>& disks);
  static FakeDisk disk_on(const std::string& target, const ImageName& image, std::uint64_t writes_per_s = 0);
  // The guest of `domain` writes the first `blocks` blocks once.
  void fill(FakeDomain& domain, const std::string& disk, std::uint64_t blocks);
  void write_block(FakeDomain& domain, FakeDisk& disk, std::uint64_t block);

  // --- what happens
  void advance(std::int64_t duration_ms);
  void kill_qemu(FakeDomain& domain);  // a persistent domain stays defined, a transient one is gone
  void start_qemu(FakeDomain& domain);
  void process_dies();  // locks are dropped, nothing else changes
  void host_crashes();  // processes and QEMUs die, files fall back to what is durable
  // The next port calls: throw Crash at call `number` (from 1), before or after it has acted, or in its middle.
  enum class CrashWhen { before, after, torn };
  void crash_at(std::uint64_t call_number, CrashWhen when);
  std::uint64_t calls() const { return calls_; }
  // Something that happens right before call `number`.
  void happen_at(std::uint64_t call_number, std::function<void()> event);

  // --- the state itself
  std::int64_t now_ms = 1'000;
  std::map<std::string, FakePool> pools;
  std::map<ImageName, FakeImage> images;
  std::vector<std::pair<ImageName, FakeImage>> trash;
  std::vector<std::unique_ptr<FakeDomain>> domains;
  std::map<std::string, FakeFile> files;
  std::set<std::string> locked;
  std::map<std::string, std::string> secrets;  // by uuid or usage
  std::vector<HealthCheck> health;
  std::string fsid = "11111111-2222-3333-4444-555555555555";
  std::map<std::string, std::string> fsid_by_conf;
  std::int64_t hypervisor_away_until_ms = 0;
  std::int64_t cluster_away_until_ms = 0;
  std::optional<Error> next_pivot_fails;
  std::uint64_t copies_fail_after_bytes = 0;  // a running copy ends there without being complete; 0: it does not
  bool copies_fail_when_limited = false;      // or as soon as the guest's writes are limited
  bool pivots_forget_definition = false;      // libvirtd dies before it has recorded a pivot
  bool copies_stand_still = false;            // and cannot be ended either, like writes to a full pool
  std::uint64_t copy_bytes_per_s = 64 * 1024 * 1024;

  // --- for the ports
  template <class Body>
  auto call(Body body) {
    begin_call();
    auto result = body();
    end_call();
    return result;
  }
  bool torn_now() const { return crash_call_ == calls_ && crash_when_ == CrashWhen::torn; }
  FakeDomain* find(const std::string& name_or_uuid);
  FakeImage* image(const ImageName& name);
  static std::string watcher_of(const FakeDomain& domain, const ImageName& image);
  std::string next_id();

 private:
  void begin_call();
  void end_call();
  void tick();
  void end_watches();
  void guest_writes(FakeDomain& domain, FakeDisk& disk);
  void copy_some(FakeDomain& domain, FakeDisk& disk);

  std::uint64_t calls_ = 0;
  std::uint64_t crash_call_ = 0;
  CrashWhen crash_when_ = CrashWhen::before;
  std::map<std::uint64_t, std::function<void()>> events_;
  std::uint64_t next_stamp_ = 1;
  std::uint64_t random_ = 12345;
  std::uint64_t ids_ = 0;
};

}  // namespace poolshift::fakes
