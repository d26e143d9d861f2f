// The world behind the ports, for tests without servers: a cluster, a hypervisor with writing guests, files, time.
// It lives on when the process that uses the ports dies, and forgets what a crash forgets. The world itself is in
// fake_world.cpp, each port in the file of its name.
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
#include <type_traits>
#include <vector>

#include "flow/guard.h"
#include "ports/hypervisor.h"
#include "ports/storage.h"
#include "ports/system.h"

namespace poolshift::fakes {

inline constexpr std::uint64_t kBlockBytes = 4096;
inline constexpr std::uint64_t kObjectBlocks = 4;  // a data object is so many blocks, whatever the image's order

// Thrown out of a port call: the process dies here. Nothing may catch it but the test.
struct Crash {};

// Thrown out of a port call when there were too many: a loop without end.
struct Endless {};

// The data of an image or of a snapshot of it.
struct FakeLayer {
  std::map<std::uint64_t, std::uint64_t> blocks;  // block number to stamp; there: allocated; 0: zeroes
  // Data objects that are there and of which the object map says that they are not: they are read from the parent, or
  // as zeroes when there is none.
  std::set<std::uint64_t> unmapped;
  // The other way round: a client died after it had told the map of an object and before it wrote it. Who flattens the
  // image takes it for one that is there.
  std::set<std::uint64_t> mapped_in_vain;
  std::string parent;              // "pool/image@snap"; empty: not a clone
  std::uint64_t parent_bytes = 0;  // of the parent that are seen through the clone, from the start
};

struct FakeSnapshot : FakeLayer {
  std::uint64_t size_bytes = 0;
};

struct FakeImage : FakeLayer {
  std::string id;
  ImageSpec spec;
  std::map<std::string, std::int64_t> watchers;  // address to the time at which the watch ends; -1: alive
  std::vector<std::string> lockers;
  std::vector<std::string> snapshots;
  std::map<std::string, FakeSnapshot> frozen;  // what the snapshots hold
  std::set<std::string> half_removed;          // snapshots that were taken out of sight and are still there
  bool flattening = false;                     // librbd is at it, whoever waits for it
  std::uint64_t flattened_objects = 0;
  std::string group;
  bool migrating = false;
  bool mirroring = false;
};

// A qcow2 file. Whoever has it open keeps it when its name is removed.
struct FakeQcow2 {
  std::uint64_t size_bytes = 0;
  std::map<std::uint64_t, std::uint64_t> blocks;
};

struct FakeOverlay {
  std::string path;
  std::shared_ptr<FakeQcow2> file;
};

// An active commit: the overlay goes down into the image below.
struct FakeCommit {
  std::set<std::uint64_t> dirty;
  bool ready = false;
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
  // What the XML says, but for what the members below change in it. `image` is the RBD image that QEMU has open, below
  // the overlay when there is one.
  Disk shown;
  std::optional<ImageName> persistent_image;
  std::string changed_by_switch;         // the comparable XML once the disk is on another image; empty: the same
  bool changes_only_definition = false;  // and not the live XML
  ImageName original;                    // the image of the start
  std::string persistent_overlay;        // path: the definition names this file, over persistent_image
  std::optional<FakeOverlay> overlay;    // what QEMU writes to
  std::optional<FakeMirror> mirror;
  std::optional<MirrorOptions> latest_mirror;  // of the copy that was started last
  std::optional<FakeCommit> commit;
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
  bool has_saved_state = false;
  bool of_openstack = false;
  int instance = 0;            // of QEMU; another one after each start
  std::int64_t paused_ms = 0;  // for so long it has been paused now
  std::int64_t longest_pause_ms = 0;
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
  std::shared_ptr<FakeQcow2> qcow2 = nullptr;
};

// A guardian process: it lives in the world, not in the process that has started it.
struct FakeGuardian {
  GuardOrder order;
  std::string lock_path;       // which it keeps locked
  std::int64_t begun_ms = -1;  // when the guest could first be suspended
  bool owner_is_alive = true;  // the process that has started it
  bool is_told = false;        // to stand down
  bool has_stepped_in = false;
  bool acts = false;  // until the guest runs
  std::int64_t next_try_ms = 0;
  std::int64_t looks_again_until_ms = -1;
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

  // --- what is read: the stamp, 0 for zeroes; empty: not allocated, neither here nor in the parents
  std::optional<std::uint64_t> stored(const FakeLayer& layer, std::uint64_t block) const;
  std::uint64_t read(const ImageName& name, std::uint64_t block) const;
  // As the guest would read it, or will when it is started again.
  std::uint64_t read(const FakeDisk& disk, std::uint64_t block) const;
  Usage usage(const FakeLayer& layer) const;

  // --- what happens
  void advance(std::int64_t duration_ms);
  void kill_qemu(FakeDomain& domain);   // a persistent domain stays defined, a transient one is gone
  void start_qemu(FakeDomain& domain);  // it stays off when the file of an overlay or an image is not there
  void shut_down(FakeDomain& domain);   // by its guest: images are closed, no watch is left
  void process_dies();                  // locks are dropped, guardians see it, nothing else changes
  void host_crashes();                  // processes and QEMUs die, files fall back to what is durable
  // The next port calls: throw Crash at call `number` (from 1), before or after it has acted, or in its middle.
  enum class CrashWhen { before, after, torn };
  void crash_at(std::uint64_t call_number, CrashWhen when);
  std::uint64_t calls() const { return calls_; }
  // Something that happens right before call `number`.
  void happen_at(std::uint64_t call_number, std::function<void()> event);
  // Call `number`, or it and all later ones, returns an error: before it has acted, after it, or in its middle. Only
  // calls that can fail do; guardians' calls do not count. `is_hit` says whether any has failed so.
  struct Fault {
    Error error;
    CrashWhen when = CrashWhen::before;
    bool lasts = false;
    std::int64_t silent_ms = 0;  // so long before it returns
    bool of_files = false;       // of the calls that write files, and of no others; else: of all other calls
  };
  void fail_at(std::uint64_t call_number, Fault fault);
  void end_fault() { fault_.reset(); }
  bool fault_is_hit() const { return fault_is_hit_; }
  // More calls than this are taken for a loop without end: Endless is thrown.
  std::uint64_t most_calls = 1'000'000;
  // Call `number` takes so long, before it acts or after it.
  void hang_at(std::uint64_t call_number, std::int64_t duration_ms, CrashWhen when = CrashWhen::before);

  // --- the state itself
  std::int64_t now_ms = 1'000;
  std::map<std::string, FakePool> pools;
  std::map<ImageName, FakeImage> images;
  std::vector<std::pair<ImageName, FakeImage>> trash;
  std::map<ImageName, ImageName> half_renamed;  // a name of an image that is in `images` under another
  std::set<ImageName> half_trashed;             // no image has such a name any more, and none can get it
  std::vector<std::unique_ptr<FakeDomain>> domains;
  std::map<std::string, FakeFile> files;
  std::set<std::string> locked;
  std::set<std::string> of_others;                   // files that this process may read and not write
  std::map<std::string, FileFacts> facts;            // of files and folders for which the default is not right
  std::set<std::string> impassable;                  // folders that QEMU's user cannot pass through, or one above them
  std::optional<std::uint32_t> shared_group = 123U;  // "poolshift" in /etc/group
  std::map<std::int64_t, ProcessFacts> processes;
  std::map<std::string, std::int64_t> listeners;        // local socket to process id
  std::map<std::string, std::string> program_versions;  // program to what it prints
  HypervisorVersions versions{"9.0.0", "7.2.0", "qemu:///system"};
  std::string librbd_version = "1.16.0";
  std::vector<std::shared_ptr<FakeGuardian>> guardians;  // those that live
  std::map<std::string, std::string> secrets;            // by uuid or usage
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
  std::int64_t offload_ms = 4;               // how long the OSDs take for an object
  double slowdown_per_offload = 0;           // of the guest's writes, for each object that is under way
  bool guardians_die_too = false;            // with the process that has started them
  std::int64_t guardians_look_again_ms = 0;  // after the process has ended; the real one: 2 s
  std::optional<Error> next_guardian_fails;  // to start

  // --- for the ports
  // Of the process; a guardian's calls are made with guardian_call(): they take time too, and do not count.
  enum class Kind { plain, writes_file };
  template <class Body>
  auto call(Body body, Kind kind = Kind::plain) {
    using Answer = decltype(body());
    const auto number = begin_call();  // a call may be made inside another: while it waits
    if constexpr (std::is_constructible_v<Answer, Error>) {
      if (has_fault(number, kind, CrashWhen::before)) {
        end_call(number);
        return Answer(meet_fault());
      }
    }
    auto result = body();
    end_call(number);
    if constexpr (std::is_constructible_v<Answer, Error>) {
      const bool fails = has_fault(number, kind, CrashWhen::after) || has_fault(number, kind, CrashWhen::torn);
      if (fails && result) return Answer(meet_fault());
    }
    return result;
  }
  template <class Body>
  auto guardian_call(Body body) {
    auto result = body();
    advance(1);
    return result;
  }
  bool torn_now() const {
    return (crash_call_ == calls_ && crash_when_ == CrashWhen::torn) ||
           has_fault(calls_, Kind::writes_file, CrashWhen::torn);
  }
  FakeDomain* find(const std::string& name_or_uuid);
  FakeImage* image(const ImageName& name);
  const FakeImage* image(const ImageName& name) const;
  // The object goes up from the parent as a whole when this is the first write to it.
  void store(FakeImage& image, std::uint64_t block, std::uint64_t stamp);
  static bool is_open(const FakeImage& image);  // in a client that lives
  // Only the object's own blocks, not those of a parent.
  static bool has_object(const FakeLayer& layer, std::uint64_t object);
  static std::vector<std::uint64_t> objects_of(const FakeLayer& layer);
  // `snapshot` as an image's `parent` has it. Null when it is not there.
  const FakeSnapshot* snapshot(const std::string& name) const;
  bool has_clones(const std::string& snapshot) const;
  void rename_parent(const ImageName& from, const ImageName& to);
  void copy_up(FakeImage& image, std::uint64_t object);
  // By the death of the client that was at it.
  void end_flattening(FakeImage& image);
  // Of an object that the image does not have: what it reads from its parent.
  std::map<std::uint64_t, std::uint64_t> inherited(const FakeImage& image, std::uint64_t object) const;
  static std::uint64_t objects_of_parent(const FakeLayer& layer);
  bool is_full(const std::string& pool) const;
  static const std::string& data_pool(const ImageName& name, const FakeImage& image);
  static std::string watcher_of(const FakeDomain& domain, const ImageName& image);
  std::string next_id();
  bool lock(const std::string& path);
  void unlock(const std::string& path);
  unsigned offloads_under_way = 0;
  void end_guardian(const std::shared_ptr<FakeGuardian>& guardian);

 private:
  bool has_fault(std::uint64_t number, Kind kind, CrashWhen when) const;
  Error meet_fault();
  std::uint64_t begin_call();
  void end_call(std::uint64_t number);
  void tick();
  void end_watches();
  void guest_writes(FakeDomain& domain, FakeDisk& disk);
  void copy_some(FakeDomain& domain, FakeDisk& disk);
  void commit_some(FakeDisk& disk);
  void flatten_some();
  void watch_over_guests();
  void watch_over_guest(const std::shared_ptr<FakeGuardian>& guardian);

  struct Hang {
    std::int64_t duration_ms = 0;
    CrashWhen when = CrashWhen::before;
  };

  std::uint64_t calls_ = 0;
  std::uint64_t crash_call_ = 0;
  CrashWhen crash_when_ = CrashWhen::before;
  std::uint64_t fault_call_ = 0;
  std::optional<Fault> fault_;
  bool fault_is_hit_ = false;
  std::map<std::uint64_t, std::function<void()>> events_;
  std::map<std::uint64_t, Hang> hangs_;
  std::set<std::string> locked_by_process_;
  bool guardian_acts_ = false;
  std::uint64_t next_stamp_ = 1;
  std::uint64_t random_ = 12345;
  std::uint64_t ids_ = 0;
};

// What the world's ports() are made of. `of_guardian`: the calls do not count as the process's.
std::unique_ptr<Hypervisor> make_fake_hypervisor(FakeWorld& world, bool of_guardian);
std::unique_ptr<Storage> make_fake_storage(FakeWorld& world);
std::unique_ptr<System> make_fake_system(FakeWorld& world, bool of_guardian);

}  // namespace poolshift::fakes
