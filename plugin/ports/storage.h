// What PoolShift needs of the Ceph cluster, in PoolShift's words. The real one is adapters/rbd_storage.cpp, the fake
// one is in tests/fakes; tests/contract holds both to the same cases.
//
// Every call may fail with `unreachable`, `not_found` and `denied`. Ports do not log and do not retry.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/image_name.h"
#include "base/result.h"

namespace poolshift {

inline constexpr std::uint64_t kFeatureObjectMap = 8;  // RBD_FEATURE_OBJECT_MAP

// What `rbd create` can be told, enough to make an image again as it was.
struct ImageSpec {
  std::uint64_t size_bytes = 0;
  std::uint64_t features = 0;      // RBD_FEATURE_*
  std::uint8_t order = 22;         // log2 of the object size in bytes
  std::uint64_t stripe_unit = 0;   // bytes; 0: the object size
  std::uint64_t stripe_count = 0;  // 0: 1
  std::string data_pool;           // empty: the image's own pool
  std::map<std::string, std::string> metadata;

  bool operator==(const ImageSpec&) const = default;
};

struct Image {
  std::string id;
  ImageSpec spec;
  std::vector<std::string> watchers;  // addresses: one per client instance that has it open for writing
  std::vector<std::string> lockers;   // client names that hold a lock on it
  std::vector<std::string> snapshots;
  std::string parent;      // "pool/image@snap"; empty: not a clone
  std::string group;       // "pool/group"; empty: in none
  bool migrating = false;  // carries an `rbd migration` header
  bool mirroring = false;  // rbd-mirror is enabled on it
};

struct TrashedImage {
  std::string id;
  std::vector<std::string> watchers;  // as of Image
};

struct Pool {
  std::int64_t id = 0;
  bool has_application_rbd = false;
  bool erasure_coded = false;
  bool allows_ec_overwrites = false;
  bool full = false;  // full or full_quota
  bool backfillfull = false;
  bool nearfull = false;
  std::uint64_t max_avail_bytes = 0;
  std::uint64_t objects = 0;
  std::uint64_t quota_bytes = 0;       // 0: none
  std::uint64_t quota_objects = 0;     // 0: none
  std::uint64_t quota_used_bytes = 0;  // as a quota counts (see Usage); 0: no quota
};

// What an image holds, what its parent provides included.
struct Usage {
  std::uint64_t bytes = 0;    // each object up to its end, which is what a quota counts
  std::uint64_t objects = 0;  // that hold them; of a striped image, that may
};

struct HealthCheck {
  std::string name;      // "PG_AVAILABILITY"
  std::string severity;  // "HEALTH_WARN", "HEALTH_ERR"
  std::string summary;
  std::vector<std::string> details;  // one line each
};

// What became of the objects of one call of ObjectCopier::copy().
struct ObjectCopies {
  std::uint64_t copied = 0;
  std::uint64_t present = 0;  // the clone had them already: the guest was there first, or an earlier run
  std::uint64_t absent = 0;   // not in the snapshot
};

// Lets the OSDs copy data objects of a snapshot to the same places of a clone of it; no data comes through this client.
// An object that the clone has is left alone. Does not tell the clone's object map: rebuild_object_map() does.
class ObjectCopier {
 public:
  virtual ~ObjectCopier() = default;

  // Waits for all of them, at most `in_flight` at a time; after a failure the rest is not begun. `failed` when the
  // clone's data pool is full.
  virtual Result<ObjectCopies> copy(const std::vector<std::uint64_t>& objects, unsigned in_flight) = 0;
};

// Called every now and then while a long operation runs, with the objects of the image that it has come past, and those
// that there may be. False: stop waiting for it, it goes on by itself.
using Watching = std::function<bool(std::uint64_t done_objects, std::uint64_t total_objects)>;

// One connection to one cluster.
class Cluster {
 public:
  virtual ~Cluster() = default;

  virtual Result<std::string> fsid() = 0;
  virtual Result<Pool> pool(const std::string& name) = 0;
  virtual Result<std::vector<HealthCheck>> health() = 0;
  // Whether this user may read and write there; changes nothing. `denied` when not.
  virtual Status may_write(const std::string& pool, const std::string& rbd_namespace) = 0;

  virtual Result<Image> image(const ImageName& name) = 0;
  virtual Result<Usage> usage(const ImageName& name) = 0;

  // Fails with `exists` when the name is taken.
  virtual Status create_image(const ImageName& name, const ImageSpec& spec) = 0;
  // `from` and `to` are in the same pool and namespace. Fails with `exists` when `to` is taken. An image that has both
  // names, because a client died over a rename, whichever way, gets `to` alone.
  virtual Status rename_image(const ImageName& from, const ImageName& to) = 0;
  virtual Status resize_image(const ImageName& name, std::uint64_t size_bytes) = 0;
  // Gives back what holds only zeroes. Done by the client that has the image open, when there is one.
  virtual Status sparsify_image(const ImageName& name) = 0;
  virtual Status set_metadata(const ImageName& name, const std::string& key, const std::string& value) = 0;
  // Ok when the key is not there.
  virtual Status remove_metadata(const ImageName& name, const std::string& key) = 0;
  // Fails with `busy` when a client has it open. Ends a move that another client died over.
  virtual Status move_to_trash(const ImageName& name) = 0;
  // The images in the trash that had this name.
  virtual Result<std::vector<TrashedImage>> trash_of(const ImageName& name) = 0;
  // Gives it its name back; who has it open does not notice. Fails with `exists` when the name is taken.
  virtual Status restore_from_trash(const ImageName& name, const std::string& id) = 0;

  // Fails with `exists` when the image has a snapshot of that name. Made by the client that has the image open.
  virtual Status create_snapshot(const ImageName& name, const std::string& snapshot) = 0;
  // Ok when it is not there. Ends the removal that a client died over. Fails with `busy` when it has clones.
  virtual Status remove_snapshot(const ImageName& name, const std::string& snapshot) = 0;
  // A clone (format 2: the snapshot needs no protection) with the layout and features of `spec`; its size is the
  // snapshot's and its metadata librbd's business. Fails with `exists` when the name is taken.
  virtual Status clone_image(const ImageName& parent, const std::string& snapshot, const ImageName& name,
                             const ImageSpec& spec) = 0;
  // Removes a clone that never got data of its own: what is lost is in its parent. Ok when it is not there. Fails with
  // `busy` when a client has it open, `refused` when it is no clone or has data.
  virtual Status remove_untouched_clone(const ImageName& name) = 0;
  // Whether the image has data objects of its own, what its parent provides not counted.
  virtual Result<bool> has_own_data(const ImageName& name) = 0;
  // Numbers of the data objects that the snapshot itself has, not its parent, ascending.
  virtual Result<std::vector<std::uint64_t>> snapshot_objects(const ImageName& name, const std::string& snapshot) = 0;
  // `clone` must have the snapshot's object size, and neither may be striped. Does not outlive the connection.
  virtual Result<std::unique_ptr<ObjectCopier>> object_copier(const ImageName& name, const std::string& snapshot,
                                                              const ImageName& clone) = 0;
  // Ok when the image has none. Done by the client that has the image open, when there is one, as is flatten.
  virtual Status rebuild_object_map(const ImageName& name, const Watching& watching) = 0;
  // The image gets on without one. Ok when it has none.
  virtual Status drop_object_map(const ImageName& name) = 0;
  // Those of the object map's features that are among `features`. librbd trusts the map when it has been rebuilt.
  virtual Status add_object_map(const ImageName& name, std::uint64_t features) = 0;
  // Gives the clone all that it still has from its parent, and cuts the tie. Ok when it has no parent. `left` when
  // `watching` said so. What the object map says is there is not looked for (docs/adr/0011-flatten.md).
  virtual Status flatten_image(const ImageName& name, const Watching& watching) = 0;
};

class Storage {
 public:
  virtual ~Storage() = default;

  // `key` is base64 cephx; empty when `access.conf_path` brings its own keyring.
  virtual Result<std::unique_ptr<Cluster>> connect(const ClusterAccess& access, const std::string& key) = 0;
  virtual std::string version() = 0;  // of librbd
};

}  // namespace poolshift
