// What PoolShift needs of the hypervisor, in PoolShift's words. The real one is adapters/libvirt_hypervisor.cpp,
// the fake one is in tests/fakes; tests/contract holds both to the same cases.
//
// Every call may fail with `unreachable` (libvirtd is away: try again later), `not_found` (no such domain or disk) and
// `denied`. Ports do not log and do not retry.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/image_name.h"
#include "base/result.h"

namespace poolshift {

enum class DomainState {
  running,
  paused,    // suspended by somebody, or by QEMU after an I/O error
  inactive,  // defined, not running
};

// A <mirror> element of a live disk: a block copy under way.
struct Mirror {
  std::optional<ImageName> image;  // empty when the copy goes to something that is not RBD
  bool ready = false;              // <mirror ready='yes'>: the only proof that the copies are the same
  bool pivoting = false;           // <mirror ready='pivot'>: libvirt is switching now
};

struct Disk {
  std::string target;              // "vda"
  std::string described_source;    // for people: "rbd:pool/image", "file:/path"
  std::string file_path;           // set when the disk's source is a file
  std::optional<ImageName> image;  // set when the disk's source is RBD
  ClusterAccess access;            // only meaningful with `image`
  std::string serial;              // <serial>; of a disk that Nova attached the id of its volume
  bool shareable = false;
  bool read_only = false;
  std::string format;        // <driver type>: "raw", "qcow2"; empty: not said, which is raw
  bool encrypted = false;    // <encryption> on the source
  bool unmaps = false;       // <driver discard='unmap'>
  bool has_overlay = false;  // the source has a backing file
  std::optional<Mirror> mirror;
  bool commits = false;          // an active commit is under way: the overlay goes down into the image below
  bool other_block_job = false;  // pull, backup: any job that is neither a copy nor an active commit
  // Parts of its XML that PoolShift does not know how to keep, in words: "<slices> in <source>".
  std::vector<std::string> unsupported_parts;
  // Its XML without the source and without what changes by itself: equal before and after a swap.
  std::string comparable_xml;
};

struct Domain {
  std::string uuid;
  std::string name;
  DomainState state = DomainState::inactive;
  bool persistent = false;
  bool has_saved_state = false;        // of an inactive one: its next start goes on from there, with the disks of then
  bool of_openstack = false;           // Nova's metadata is in its XML
  std::vector<Disk> disks;             // of the live XML when active, else of the persistent one
  std::vector<Disk> persistent_disks;  // of the persistent XML; empty for a transient domain

  const Disk* disk(const std::string& target) const;
};

inline bool is_active(const Domain& domain) { return domain.state != DomainState::inactive; }

struct MirrorOptions {
  ImageName target;
  ClusterAccess access;
  std::uint64_t bandwidth_bytes_per_s = 0;  // 0: no limit
  std::uint32_t granularity_bytes = 0;      // 0: QEMU's default (64 KiB)
  std::uint64_t buffer_bytes = 0;           // 0: QEMU's default (16 MiB)
  bool shallow = false;                     // only the topmost image of the disk; below it the target has the same data
};

// virDomainGetBlockJobInfo, and how far the zeroing has come that QEMU does before the copy and does not count.
struct MirrorProgress {
  std::uint64_t copied_bytes = 0;           // `cur`
  std::uint64_t total_bytes = 0;            // `end`; grows when the guest writes. Equal is not ready.
  std::uint64_t highest_written_bytes = 0;  // end of the highest write to the target so far (zeroes included)
};

struct DiskCounters {
  std::uint64_t written_bytes = 0;
  std::uint64_t write_requests = 0;
  std::uint64_t write_time_ns = 0;  // total time that these requests took
};

// virDomainGetBlockIoTune: the limits that matter here; the adapter keeps the others as they are.
struct WriteLimit {
  std::uint64_t total_bytes_per_s = 0;  // 0: no limit. libvirt refuses total_* and write_* together.
  std::uint64_t write_bytes_per_s = 0;

  bool operator==(const WriteLimit&) const = default;
};

struct HypervisorVersions {
  std::string libvirt;     // "9.0.0", of the daemon
  std::string hypervisor;  // "7.2.19", of QEMU
  std::string uri;
};

class Hypervisor {
 public:
  virtual ~Hypervisor() = default;

  virtual Result<HypervisorVersions> versions() = 0;
  // By UUID or by name; the UUID is tried first.
  virtual Result<Domain> find_domain(const std::string& name_or_uuid) = 0;
  // Every domain of this host, active or not.
  virtual Result<std::vector<Domain>> list_domains() = 0;
  // The cephx key (base64) of the secret that `access` names.
  virtual Result<std::string> secret_value(const ClusterAccess& access) = 0;

  // virDomainBlockCopy(REUSE_EXT | TRANSIENT_JOB). The target must exist and have exactly the size of the disk.
  virtual Status start_mirror(const std::string& uuid, const std::string& disk, const MirrorOptions& options) = 0;
  // Empty: no copy on this disk.
  virtual Result<std::optional<MirrorProgress>> mirror_progress(const std::string& uuid, const std::string& disk) = 0;
  virtual Status set_mirror_bandwidth(const std::string& uuid, const std::string& disk, std::uint64_t bytes_per_s) = 0;
  // Asks for it and returns; that it happened is read from the domain's XML. `failed` when the copy is not ready.
  virtual Status pivot_mirror(const std::string& uuid, const std::string& disk) = 0;
  // Asks for it and returns. Ok when there is no copy.
  virtual Status cancel_mirror(const std::string& uuid, const std::string& disk) = 0;

  // virDomainSuspend: when it returns no write of the guest is under way. Ok when it is paused already.
  virtual Status suspend(const std::string& uuid) = 0;
  // Ok when it runs already. `failed` when the domain is not active.
  virtual Status resume(const std::string& uuid) = 0;
  // An external snapshot of this one disk, without metadata: from now on the guest's writes go to `overlay_path`, an
  // empty qcow2 file of the disk's size that exists already; libvirt labels it for QEMU. The image below is kept open.
  virtual Status insert_overlay(const std::string& uuid, const std::string& disk, const std::string& overlay_path) = 0;
  // Brings what the overlay holds down into the image below and takes the overlay off the disk, a step at each call:
  // the first starts the commit, one that finds it ready switches. That it is done is read from the domain's XML.
  // Ok when there is no overlay. The guest may run meanwhile.
  virtual Status commit_overlay(const std::string& uuid, const std::string& disk) = 0;
  // The persistent definition names `image` for this disk from now on; nothing else in it changes, and a running guest
  // is not touched: it goes on with what it has. Who starts the domain after this call has returned gets `image`.
  virtual Status redefine_disk(const std::string& uuid, const std::string& disk, const ImageName& image,
                               const ClusterAccess& access) = 0;

  virtual Result<DiskCounters> disk_counters(const std::string& uuid, const std::string& disk) = 0;
  virtual Result<WriteLimit> write_limit(const std::string& uuid, const std::string& disk) = 0;
  virtual Status set_write_limit(const std::string& uuid, const std::string& disk, const WriteLimit& limit) = 0;
  // Grows image and guest's disk to `bytes` (virDomainBlockResize); ok when it has that size already.
  virtual Status grow_disk(const std::string& uuid, const std::string& disk, std::uint64_t bytes) = 0;
};

}  // namespace poolshift
