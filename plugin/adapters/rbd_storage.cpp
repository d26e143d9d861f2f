#include "adapters/rbd_storage.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <rados/librados.hpp>
#include <random>
#include <rbd/librbd.hpp>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

namespace poolshift {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kSparseBytes = 4096;
// Longer than the monitors need to mark a dead OSD down (osd_heartbeat_grace 20 s, then peering): an
// operation that only has to wait for another OSD to take over succeeds.
constexpr const char* kOperationTimeoutS = "60";
constexpr const char* kConnectTimeoutS = "30";

// The second is nothing without the first.
constexpr std::uint64_t kObjectMapFeatures = RBD_FEATURE_OBJECT_MAP | RBD_FEATURE_FAST_DIFF;
// Features that librbd sets and clears by itself: they tell a state, and no image is created with them.
constexpr std::uint64_t kStateFeatures =
    RBD_FEATURE_OPERATIONS | RBD_FEATURE_MIGRATING | RBD_FEATURE_NON_PRIMARY | RBD_FEATURE_DIRTY_CACHE;

ErrorCode code_of(int result) {
  switch (-result) {
    case ENOENT: return ErrorCode::not_found;
    case EEXIST: return ErrorCode::exists;
    case EPERM:
    case EACCES: return ErrorCode::denied;
    case EBUSY: return ErrorCode::busy;
    case ETIMEDOUT:
    case ENOTCONN:
    case ESHUTDOWN:  // this client is on the cluster's blocklist: only a new connection helps
      return ErrorCode::unreachable;
    case EOPNOTSUPP:
    case ENOSYS: return ErrorCode::unsupported;
    default: return ErrorCode::failed;
  }
}

std::string_view advice_for(int result) {
  switch (-result) {
    case ENOENT: return "Check the name with 'rbd ls' and 'ceph osd pool ls'.";
    case EEXIST: return "Use another name.";
    case EPERM:
    case EACCES: return "Give this user 'profile rbd' on the pool ('ceph auth caps'), or use another user.";
    case EBUSY: return "Find out who uses the image with 'rbd status' and 'rbd lock ls'.";
    case ETIMEDOUT:
    case ENOTCONN: return "Check the cluster with 'ceph status' and the network to it, then try again.";
    case ESHUTDOWN: return "The cluster has blocklisted this client ('ceph osd blocklist ls'): try again.";
    case ENOSPC:
    case EDQUOT: return "Make space in the pool or raise its quota, then try again.";
    default: return "Look into the cluster's state with 'ceph health detail'.";
  }
}

Error make_error(int result, const std::string& what) {
  return {code_of(result), fmt::format("{}: {}", what, std::generic_category().message(-result)),
          std::string(advice_for(result))};
}

// librados' buffers throw, and so does the allocation of whatever a cluster may answer.
template <class Function>
auto guarded(std::string_view what, Function function) -> decltype(function()) {
  try {
    return function();
  } catch (const std::exception& exception) {
    return Error{ErrorCode::failed, fmt::format("{}: {}", what, exception.what()),
                 "Report this with the versions of librbd and of the cluster."};
  }
}

std::string join(const std::vector<std::string>& parts) {
  std::string joined;
  for (const auto& part : parts) joined += (joined.empty() ? "" : ",") + part;
  return joined;
}

// Answers of another version may lack a key or have it with another type: then it is the default.
template <class T>
T value_or(const Json& object, const char* key, T fallback) {
  if (!object.is_object()) return fallback;
  const auto found = object.find(key);
  if (found == object.end()) return fallback;
  if constexpr (std::is_same_v<T, std::string>) {
    return found->is_string() ? found->template get<std::string>() : fallback;
  } else {
    return found->is_number() ? found->template get<T>() : fallback;
  }
}

const Json& child(const Json& object, const char* key) {
  static const Json kNull;
  if (!object.is_object()) return kNull;
  const auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}

bool has_flag(std::string_view flags, std::string_view flag) {
  while (!flags.empty()) {
    const auto comma = flags.find(',');
    if (flags.substr(0, comma) == flag) return true;
    flags.remove_prefix(comma == std::string_view::npos ? flags.size() : comma + 1);
  }
  return false;
}

// Ceph's logger makes a standard error that is a pipe non-blocking (Log::_configure_stderr(), 16.2.11 and
// later), and with it, after a 2>&1, the standard output of the whole process. It gets along with a blocking
// one.
class BlockingStderr {
 public:
  BlockingStderr() : flags_(::fcntl(STDERR_FILENO, F_GETFL)) {}
  BlockingStderr(const BlockingStderr&) = delete;
  BlockingStderr& operator=(const BlockingStderr&) = delete;
  ~BlockingStderr() {
    if (flags_ >= 0 && (flags_ & O_NONBLOCK) == 0) ::fcntl(STDERR_FILENO, F_SETFL, flags_);
  }

 private:
  const int flags_;
};

void set_layout(librbd::ImageOptions& options, const ImageSpec& spec) {
  options.set(RBD_IMAGE_OPTION_FORMAT, std::uint64_t{2});
  options.set(RBD_IMAGE_OPTION_FEATURES, spec.features & ~kStateFeatures);
  options.set(RBD_IMAGE_OPTION_ORDER, std::uint64_t{spec.order});
  if (spec.stripe_unit != 0) options.set(RBD_IMAGE_OPTION_STRIPE_UNIT, spec.stripe_unit);
  if (spec.stripe_count != 0) options.set(RBD_IMAGE_OPTION_STRIPE_COUNT, spec.stripe_count);
  if (!spec.data_pool.empty()) options.set(RBD_IMAGE_OPTION_DATA_POOL, spec.data_pool);
}

class NoProgress final : public librbd::ProgressContext {
 public:
  int update_progress(uint64_t, uint64_t) override { return 0; }
};

// Ranges of an image, in the order that librbd reports them; near ones are made one.
class Ranges {
 public:
  explicit Ranges(std::uint64_t gap_bytes) : gap_bytes_(gap_bytes) {}

  void add(std::uint64_t offset, std::uint64_t length) {
    if (!ranges_.empty() && offset >= ranges_.back().first && offset <= end() + gap_bytes_) {
      ranges_.back().second = std::max(end(), offset + length) - ranges_.back().first;
    } else {
      ranges_.emplace_back(offset, length);
    }
  }
  const std::vector<std::pair<std::uint64_t, std::uint64_t>>& all() const { return ranges_; }

 private:
  std::uint64_t end() const { return ranges_.back().first + ranges_.back().second; }

  const std::uint64_t gap_bytes_;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges_;
};

// The callbacks of diff_iterate2() are called from C++ that does not expect exceptions; -ENOMEM ends the
// iteration.
int add_range(uint64_t offset, size_t length, int exists, void* ranges) {
  try {
    if (exists != 0) static_cast<Ranges*>(ranges)->add(offset, length);
    return 0;
  } catch (const std::exception&) {
    return -ENOMEM;
  }
}

// What the extents of an image add up to, in the order that librbd reports them.
struct Extents {
  std::uint64_t set_bytes;  // of the objects that are striped over: mostly of one
  std::uint64_t set_objects;
  Usage usage = {};
  std::uint64_t next_set = 0;  // the first that is not counted yet
};

int add_extent(uint64_t offset, size_t length, int exists, void* into) {
  if (exists == 0 || length == 0) return 0;
  auto& extents = *static_cast<Extents*>(into);
  const auto first = std::max(offset / extents.set_bytes, extents.next_set);
  extents.next_set = std::max((offset + length - 1) / extents.set_bytes + 1, extents.next_set);
  extents.usage.bytes += length;
  extents.usage.objects += (extents.next_set - first) * extents.set_objects;
  return 0;
}

// Data objects of an image, in the order that librbd reports them.
struct ObjectNumbers {
  std::uint64_t object_bytes;
  std::vector<std::uint64_t> all;
};

int add_objects(uint64_t offset, size_t length, int exists, void* into) {
  if (exists == 0 || length == 0) return 0;
  try {
    auto& numbers = *static_cast<ObjectNumbers*>(into);
    const auto last = (offset + length - 1) / numbers.object_bytes;
    for (auto number = offset / numbers.object_bytes; number <= last; ++number) {
      if (numbers.all.empty() || number > numbers.all.back()) numbers.all.push_back(number);
    }
    return 0;
  } catch (const std::exception&) {
    return -ENOMEM;
  }
}

int stop_at_data(uint64_t, size_t length, int exists, void* found) {
  if (exists == 0 || length == 0) return 0;
  *static_cast<bool*>(found) = true;
  return -ECANCELED;
}

// An image must be closed before its pool is.
struct OpenImage {
  librados::IoCtx pool;
  librbd::Image image;
};

// Where the data objects of an image are.
struct DataObjects {
  librados::IoCtx pool;
  std::string prefix;

  std::string name(std::uint64_t number) const { return fmt::format("{}.{:016x}", prefix, number); }
};

// The operations of one copy() that are under way.
class CopyWindow {
 public:
  explicit CopyWindow(unsigned in_flight) : limit_(std::max(in_flight, 1U)) {}

  // False after a failure.
  bool wait_for_room() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return under_way_ < limit_; });
    return first_error_ == 0;
  }
  void wait_for_all() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return under_way_ == 0; });
  }
  void begun() {
    const std::lock_guard lock(mutex_);
    ++under_way_;
  }
  void ended(int result) {
    const std::lock_guard lock(mutex_);
    --under_way_;
    if (result >= 0) {
      ++copies_.copied;
    } else if (result == -EEXIST) {
      ++copies_.present;
    } else if (result == -ENOENT) {
      ++copies_.absent;
    } else if (first_error_ == 0) {
      first_error_ = result;
    }
    changed_.notify_all();  // with the mutex held: the window may be gone right after it is let go
  }
  int first_error() const { return first_error_; }
  const ObjectCopies& copies() const { return copies_; }

 private:
  const unsigned limit_;
  std::mutex mutex_;
  std::condition_variable changed_;
  unsigned under_way_ = 0;
  int first_error_ = 0;
  ObjectCopies copies_;
};

void copy_ended(rados_completion_t completion, void* window) {
  static_cast<CopyWindow*>(window)->ended(rados_aio_get_return_value(completion));
}

class RbdObjectCopier final : public ObjectCopier {
 public:
  // `from.pool` reads at the snapshot.
  RbdObjectCopier(DataObjects from, DataObjects to, std::string what)
      : from_(std::move(from)), to_(std::move(to)), what_(std::move(what)) {}

  Result<ObjectCopies> copy(const std::vector<std::uint64_t>& objects, unsigned in_flight) override {
    return guarded(what_, [&]() -> Result<ObjectCopies> {
      CopyWindow window(in_flight);
      for (const auto number : objects) {
        if (!window.wait_for_room()) break;
        // One operation: either the object is made with its data, or nothing was done.
        librados::ObjectWriteOperation operation;
        operation.create(true);
        operation.copy_from(from_.name(number), from_.pool, 0, 0);
        auto* completion = librados::Rados::aio_create_completion(&window, copy_ended);
        window.begun();
        // FULL_TRY: librados would hold the operation back until a full pool has space.
        const int result = to_.pool.aio_operate(to_.name(number), completion, &operation, librados::OPERATION_FULL_TRY);
        completion->release();
        if (result < 0) window.ended(result);
      }
      window.wait_for_all();
      if (window.first_error() != 0) return make_error(window.first_error(), what_);
      return window.copies();
    });
  }

 private:
  DataObjects from_;
  DataObjects to_;
  const std::string what_;
};

// An operation of librbd that lasts, in a thread of its own, which keeps alive all that it uses. When another client
// has the image open, librbd passes the request on to that one and waits for it; a request that gets no sign of life
// for some time (rbd_request_timed_out_seconds) is sent again by librbd itself, with the same id, and the other client
// goes on with the one that it has.
class LongOperation final : public librbd::ProgressContext {
 public:
  using Function = std::function<int(librbd::Image&, librbd::ProgressContext&)>;

  LongOperation(std::shared_ptr<librados::Rados> rados, std::unique_ptr<OpenImage> open, Function function)
      : rados_(std::move(rados)), open_(std::move(open)), function_(std::move(function)) {}

  // The result, or nothing when `watching` did not want to wait any longer.
  static std::optional<int> run(const std::shared_ptr<LongOperation>& operation, const Watching& watching) {
    // Signals are for the threads of the process that we are in.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    std::thread thread;
    try {
      thread = std::thread([operation] { operation->carry_out(); });
    } catch (const std::system_error&) {
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      return -EAGAIN;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    do {
      const auto [done, total] = operation->progress();
      if (watching && !watching(done, total)) {
        operation->left_ = true;
        thread.detach();
        return std::nullopt;
      }
    } while (!operation->wait());
    thread.join();
    return operation->result_;
  }

  int update_progress(uint64_t done, uint64_t total) override {
    const std::lock_guard lock(mutex_);
    done_ = done;
    total_ = total;
    // Ends what this client does itself, so that it is not cut off in the middle when the process ends. What another
    // client does for us goes on.
    return left_ ? -ECANCELED : 0;
  }

 private:
  static constexpr auto kLookEvery = std::chrono::milliseconds(200);

  void carry_out() {
    int result = -EIO;
    try {
      result = function_(open_->image, *this);
    } catch (const std::exception&) {
    }
    open_.reset();  // the image is closed before anybody hears that it is over
    const std::lock_guard lock(mutex_);
    result_ = result;
    over_ = true;
    changed_.notify_all();
  }
  bool wait() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kLookEvery, [&] { return over_; });
  }
  std::pair<std::uint64_t, std::uint64_t> progress() {
    const std::lock_guard lock(mutex_);
    return {done_, total_};
  }

  const std::shared_ptr<librados::Rados> rados_;  // ends after the image
  std::unique_ptr<OpenImage> open_;
  const Function function_;
  std::atomic<bool> left_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t done_ = 0;
  std::uint64_t total_ = 0;
  bool over_ = false;
  int result_ = 0;
};

class RbdCluster final : public Cluster {
 public:
  Status connect(const ClusterAccess& access, const std::string& key);

  Result<std::string> fsid() override;
  Result<Pool> pool(const std::string& name) override;
  Result<std::vector<HealthCheck>> health() override;
  Status may_write(const std::string& pool, const std::string& rbd_namespace) override;

  Result<Image> image(const ImageName& name) override;
  Result<Usage> usage(const ImageName& name) override;

  Status create_image(const ImageName& name, const ImageSpec& spec) override;
  Status rename_image(const ImageName& from, const ImageName& to) override;
  Status resize_image(const ImageName& name, std::uint64_t size_bytes) override;
  Status sparsify_image(const ImageName& name) override;
  Status set_metadata(const ImageName& name, const std::string& key, const std::string& value) override;
  Status remove_metadata(const ImageName& name, const std::string& key) override;
  Status move_to_trash(const ImageName& name) override;
  Result<std::vector<TrashedImage>> trash_of(const ImageName& name) override;
  Status restore_from_trash(const ImageName& name, const std::string& id) override;

  Status create_snapshot(const ImageName& name, const std::string& snapshot) override;
  Status remove_snapshot(const ImageName& name, const std::string& snapshot) override;
  Status clone_image(const ImageName& parent, const std::string& snapshot, const ImageName& name,
                     const ImageSpec& spec) override;
  Status remove_untouched_clone(const ImageName& name) override;
  Result<bool> has_own_data(const ImageName& name) override;
  Result<std::vector<std::uint64_t>> snapshot_objects(const ImageName& name, const std::string& snapshot) override;
  Result<std::unique_ptr<ObjectCopier>> object_copier(const ImageName& name, const std::string& snapshot,
                                                      const ImageName& clone) override;
  Status rebuild_object_map(const ImageName& name, const Watching& watching) override;
  Status drop_object_map(const ImageName& name) override;
  Status add_object_map(const ImageName& name, std::uint64_t features) override;
  Status flatten_image(const ImageName& name, const Watching& watching) override;

 private:
  enum class For { reading, writing };

  Result<librados::IoCtx> open_pool(const std::string& pool, const std::string& rbd_namespace);
  Result<std::unique_ptr<OpenImage>> open_image(const ImageName& name, For purpose);
  Error open_error(librados::IoCtx& pool, const ImageName& name, int result);
  std::optional<std::string> id_of(librados::IoCtx& pool, const ImageName& name);
  static int end_rename(librados::IoCtx& pool, const ImageName& from, const ImageName& to, const std::string& id);
  static int find_snapshot(librbd::Image& image, const std::string& name, std::uint64_t& snapshot_id);
  Result<Json> ask_monitors(const Json& command);
  Result<std::vector<std::string>> watchers_of(librbd::Image& image, const ImageName& name);
  Status read_spec(librbd::Image& image, const ImageName& name, Image& description);
  Status read_relations(librbd::Image& image, const ImageName& name, Image& description);
  // Why an image with this layout cannot be made.
  Error create_error(int result, const std::string& what, const ImageSpec& spec);
  Status set_features(const ImageName& name, std::uint64_t features, bool on, const std::string& what);
  Result<DataObjects> data_objects_of(librbd::Image& image, const ImageName& name);
  Status run_watched(std::unique_ptr<OpenImage> open, const std::string& what, LongOperation::Function function,
                     const Watching& watching);

  const std::shared_ptr<librados::Rados> rados_ = std::make_shared<librados::Rados>();
  librbd::RBD rbd_;
};

Status RbdCluster::connect(const ClusterAccess& access, const std::string& key) {
  const auto place = access.conf_path.empty() ? join(access.mon_hosts) : access.conf_path;
  const auto what = fmt::format("Cannot connect to the cluster at '{}' as user '{}'", place, access.user);
  if (place.empty()) {
    return Error{ErrorCode::invalid, "Neither the disk's XML nor the configuration tells where the cluster is",
                 "Name a Ceph configuration file."};
  }
  const auto entity = fmt::format("client.{}", access.user.empty() ? "admin" : access.user);
  int result = 0;
  {
    const BlockingStderr keep;
    // Not init(): what it makes has no cluster name, and options do not take effect before it has one.
    result = rados_->init2(entity.c_str(), "ceph", 0);
  }
  if (result == 0 && !access.conf_path.empty()) {
    result = rados_->conf_read_file(access.conf_path.c_str());
    if (result < 0) {
      return make_error(result, fmt::format("Cannot read the Ceph configuration file '{}'", access.conf_path));
    }
  }
  const auto set = [&](const char* option, const std::string& value) {
    if (result == 0) result = rados_->conf_set(option, value.c_str());
  };
  if (access.conf_path.empty()) set("mon_host", join(access.mon_hosts));
  if (!key.empty()) {
    set("key", key);
    set("keyring", "/dev/null");  // else librados looks for one in /etc/ceph
  }
  set("client_mount_timeout", kConnectTimeoutS);
  set("rados_mon_op_timeout", kOperationTimeoutS);
  set("rados_osd_op_timeout", kOperationTimeoutS);
  set("rbd_cache", "false");
  set("rbd_default_clone_format", "2");
  set("log_file", "");
  set("log_to_stderr", "false");
  set("err_to_stderr", "false");
  set("admin_socket", "");
  // conf_set() notes an option, this puts it into effect. Without it librados writes what goes wrong while it
  // connects to standard error, whatever err_to_stderr says.
  const char* no_arguments[] = {"poolshift"};
  if (result == 0) result = rados_->conf_parse_argv(1, no_arguments);
  if (result < 0) return make_error(result, what);

  result = rados_->connect();
  if (result == 0) return {};
  auto error = make_error(result, what);
  // EINVAL: the key is not base64; ENOENT: there is no key.
  if (error.code == ErrorCode::denied || result == -EINVAL || result == -ENOENT) {
    error.code = ErrorCode::denied;
    error.advice = "Check the user and its key against 'ceph auth get'.";
  }
  // With the old protocol (the port in a domain's XML mostly is the one of v1) librados tries a wrong key again and
  // again.
  if (result == -ETIMEDOUT) {
    error.advice = fmt::format(
        "Check that the cluster answers ('ceph status') and that the key is that of '{}' ('ceph auth get'): "
        "a wrong one is told from a cluster that is away only by newer protocols.",
        entity);
  }
  return error;
}

Result<Json> RbdCluster::ask_monitors(const Json& command) {
  librados::bufferlist answer;
  std::string status;
  const int result = rados_->mon_command(command.dump(), {}, &answer, &status);
  const auto prefix = command.value("prefix", "");
  if (result < 0) return make_error(result, fmt::format("The monitors refuse '{}'", prefix));
  auto parsed = Json::parse(answer.to_str(), nullptr, false);
  if (parsed.is_discarded()) {
    return Error{ErrorCode::failed, fmt::format("The monitors' answer to '{}' is not JSON", prefix),
                 "Check that this version of Ceph is supported."};
  }
  return parsed;
}

Result<std::string> RbdCluster::fsid() {
  return guarded("Cannot get the cluster's fsid", [&]() -> Result<std::string> {
    std::string fsid;
    const int result = rados_->cluster_fsid(&fsid);
    if (result < 0) return make_error(result, "Cannot get the cluster's fsid");
    return fsid;
  });
}

Result<Pool> RbdCluster::pool(const std::string& name) {
  return guarded(fmt::format("Cannot look at pool '{}'", name), [&]() -> Result<Pool> {
    // The same records as in "osd dump", without the OSDs: some hundred times less on a large cluster.
    const auto pools = ask_monitors({{"prefix", "osd pool ls"}, {"detail", "detail"}, {"format", "json"}});
    if (!pools) return pools.error();
    const Json* found = nullptr;
    for (const auto& candidate : *pools) {
      if (value_or(candidate, "pool_name", std::string()) == name) found = &candidate;
    }
    if (found == nullptr) return make_error(-ENOENT, fmt::format("There is no pool '{}'", name));

    Pool pool;
    pool.id = value_or<std::int64_t>(*found, "pool_id", rados_->pool_lookup(name.c_str()));
    pool.has_application_rbd = child(*found, "application_metadata").contains("rbd");
    pool.erasure_coded = value_or(*found, "type", 1) == 3;  // pg_pool_t::TYPE_ERASURE
    const auto flags = value_or(*found, "flags_names", std::string());
    pool.allows_ec_overwrites = has_flag(flags, "ec_overwrites");
    pool.full = has_flag(flags, "full") || has_flag(flags, "full_quota");
    pool.backfillfull = has_flag(flags, "backfillfull");
    pool.nearfull = has_flag(flags, "nearfull");
    pool.quota_bytes = value_or<std::uint64_t>(*found, "quota_max_bytes", 0);
    pool.quota_objects = value_or<std::uint64_t>(*found, "quota_max_objects", 0);

    if (pool.quota_bytes != 0) {
      const auto quota = ask_monitors({{"prefix", "osd pool get-quota"}, {"pool", name}, {"format", "json"}});
      if (!quota) return quota.error();
      pool.quota_used_bytes = value_or<std::uint64_t>(*quota, "current_num_bytes", 0);
    }

    const auto usage = ask_monitors({{"prefix", "df"}, {"detail", "detail"}, {"format", "json"}});
    if (!usage) return usage.error();
    for (const auto& candidate : child(*usage, "pools")) {
      if (value_or(candidate, "name", std::string()) != name) continue;
      const auto& stats = child(candidate, "stats");
      pool.max_avail_bytes = value_or<std::uint64_t>(stats, "max_avail", 0);
      pool.objects = value_or<std::uint64_t>(stats, "objects", 0);
      return pool;
    }
    return Error{ErrorCode::failed, fmt::format("The cluster has no statistics of pool '{}' yet", name),
                 "Check that a manager daemon is active ('ceph mgr stat'), then try again."};
  });
}

Result<std::vector<HealthCheck>> RbdCluster::health() {
  return guarded("Cannot get the cluster's health", [&]() -> Result<std::vector<HealthCheck>> {
    const auto report = ask_monitors({{"prefix", "health"}, {"detail", "detail"}, {"format", "json"}});
    if (!report) return report.error();
    std::vector<HealthCheck> checks;
    for (const auto& [name, raw] : child(*report, "checks").items()) {
      HealthCheck check;
      check.name = name;
      check.severity = value_or(raw, "severity", std::string());
      check.summary = value_or(child(raw, "summary"), "message", std::string());
      for (const auto& detail : child(raw, "detail")) {
        check.details.push_back(value_or(detail, "message", std::string()));
      }
      checks.push_back(std::move(check));
    }
    return checks;
  });
}

Result<librados::IoCtx> RbdCluster::open_pool(const std::string& pool, const std::string& rbd_namespace) {
  librados::IoCtx io;
  const int result = rados_->ioctx_create(pool.c_str(), io);
  if (result < 0) return make_error(result, fmt::format("Cannot open pool '{}'", pool));
  io.set_namespace(rbd_namespace);
  return io;
}

Status RbdCluster::may_write(const std::string& pool, const std::string& rbd_namespace) {
  return guarded(fmt::format("Cannot try to write to pool '{}'", pool), [&]() -> Status {
    auto io = open_pool(pool, "");
    if (!io) return io.error();
    if (!rbd_namespace.empty()) {
      // A user of one namespace may not be allowed to look; then the operation below decides.
      bool exists = true;
      if (rbd_.namespace_exists(*io, rbd_namespace.c_str(), &exists) == 0 && !exists) {
        return Error{ErrorCode::not_found, fmt::format("Pool '{}' has no namespace '{}'", pool, rbd_namespace),
                     fmt::format("Create it with 'rbd namespace create {}/{}'.", pool, rbd_namespace)};
      }
      io->set_namespace(rbd_namespace);
    }
    // An OSD checks the user's rights for all parts of an operation before it does the first. This one reads,
    // writes and calls a method of RBD's, and always stops at the first part: no object has this name.
    librados::ObjectWriteOperation operation;
    operation.assert_exists();
    librados::bufferlist no_input;
    operation.exec("rbd", "metadata_set", no_input);
    operation.remove();
    std::random_device random;
    const auto object = fmt::format("poolshift_may_write.{:08x}{:08x}", random(), random());
    // Without FULL_TRY librados would hold the operation back until a full pool has space.
    const int result = io->operate(object, &operation, librados::OPERATION_FULL_TRY);
    if (result == -ENOENT || result == -ENOSPC || result == -EDQUOT || result == 0) return {};
    const auto place = rbd_namespace.empty() ? pool : fmt::format("{}/{}", pool, rbd_namespace);
    return make_error(result, fmt::format("This user may not read and write '{}'", place));
  });
}

Error RbdCluster::open_error(librados::IoCtx& pool, const ImageName& name, int result) {
  auto error = make_error(result, fmt::format("Cannot open image '{}'", to_string(name)));
  if (result != -ENOENT) return error;
  // `rbd migration prepare` and `rbd trash mv` both take the name away.
  std::vector<librbd::trash_image_info_t> trash;
  if (rbd_.trash_list(pool, trash) < 0) return error;
  for (const auto& entry : trash) {
    if (entry.name != name.image) continue;
    if (entry.source == RBD_TRASH_IMAGE_SOURCE_MIGRATION) {
      return {ErrorCode::busy,
              fmt::format("Image '{}' is the source of an unfinished 'rbd migration'", to_string(name)),
              "Finish it with 'rbd migration commit' or undo it with 'rbd migration abort'."};
    }
    error.message = fmt::format("Image '{}' is in the trash as '{}'", to_string(name), entry.id);
    error.advice = "Get it back with 'rbd trash restore', or name another image.";
  }
  return error;
}

Result<std::unique_ptr<OpenImage>> RbdCluster::open_image(const ImageName& name, For purpose) {
  auto io = open_pool(name.pool, name.rbd_namespace);
  if (!io) return io.error();
  auto open = std::make_unique<OpenImage>();
  open->pool = *io;
  const int result = purpose == For::reading ? rbd_.open_read_only(open->pool, open->image, name.image.c_str(), nullptr)
                                             : rbd_.open(open->pool, open->image, name.image.c_str());
  if (result < 0) return open_error(open->pool, name, result);
  return open;
}

Result<std::vector<std::string>> RbdCluster::watchers_of(librbd::Image& image, const ImageName& name) {
  std::list<librbd::image_watcher_t> found;
  const int result = image.list_watchers(found);
  if (result < 0) return make_error(result, fmt::format("Cannot list the watchers of image '{}'", to_string(name)));
  const auto own_id = static_cast<std::int64_t>(rados_->get_instance_id());
  std::vector<std::string> addresses;
  for (const auto& watcher : found) {
    // Another thread of ours may be at work on this image through this connection.
    if (watcher.id == own_id) continue;
    // The address ends with the client instance's nonce: two watches of one address are one client.
    if (std::find(addresses.begin(), addresses.end(), watcher.addr) == addresses.end()) {
      addresses.push_back(watcher.addr);
    }
  }
  return addresses;
}

Status RbdCluster::read_spec(librbd::Image& image, const ImageName& name, Image& description) {
  const auto failed = [&](int result) {
    return make_error(result, fmt::format("Cannot read the properties of image '{}'", to_string(name)));
  };
  auto& spec = description.spec;
  librbd::image_info_t info{};
  std::uint64_t features = 0;
  int result = image.get_id(&description.id);
  // Images of format 1 have no id.
  if (result == -EOPNOTSUPP || result == -EINVAL) {
    return Error{ErrorCode::unsupported, fmt::format("Image '{}' has the old format 1", to_string(name)),
                 "Convert it with 'rbd migration' while no guest uses it."};
  }
  if (result == 0) result = image.stat(info, sizeof(info));
  if (result == 0) result = image.features(&features);
  if (result < 0) return failed(result);
  spec.size_bytes = info.size;
  spec.order = static_cast<std::uint8_t>(info.order);
  spec.features = features & ~kStateFeatures;
  description.migrating = (features & RBD_FEATURE_MIGRATING) != 0;
  // The default layout is told as 0 and 0, so that it compares equal to a spec that does not name one.
  const bool striped = image.get_stripe_count() > 1 || image.get_stripe_unit() != info.obj_size;
  spec.stripe_unit = striped ? image.get_stripe_unit() : 0;
  spec.stripe_count = striped ? image.get_stripe_count() : 0;
  if ((features & RBD_FEATURE_DATA_POOL) != 0) {
    result = rados_->pool_reverse_lookup(image.get_data_pool_id(), &spec.data_pool);
    if (result < 0) return failed(result);
  }

  constexpr std::uint64_t kPage = 128;
  std::string last;
  for (;;) {
    std::map<std::string, librados::bufferlist> page;
    result = image.metadata_list(last, kPage, &page);
    if (result < 0) return failed(result);
    for (auto& [key, value] : page) spec.metadata[key] = value.to_str();
    if (page.size() < kPage) return {};
    last = page.rbegin()->first;
  }
}

Status RbdCluster::read_relations(librbd::Image& image, const ImageName& name, Image& description) {
  const auto failed = [&](int result, std::string_view what) {
    return make_error(result, fmt::format("Cannot read the {} of image '{}'", what, to_string(name)));
  };
  std::list<librbd::locker_t> lockers;
  bool exclusive = false;
  std::string tag;
  int result = image.list_lockers(&lockers, &exclusive, &tag);
  if (result < 0) return failed(result, "locks");
  for (const auto& locker : lockers) description.lockers.push_back(locker.client);

  std::vector<librbd::snap_info_t> snapshots;
  result = image.snap_list(snapshots);
  if (result < 0) return failed(result, "snapshots");
  for (const auto& snapshot : snapshots) description.snapshots.push_back(snapshot.name);

  librbd::linked_image_spec_t parent;
  librbd::snap_spec_t snapshot;
  result = image.get_parent(&parent, &snapshot);
  if (result < 0 && result != -ENOENT) return failed(result, "parent");
  if (result == 0) {
    const ImageName parent_name{parent.pool_name, parent.pool_namespace, parent.image_name};
    description.parent = fmt::format("{}@{}", to_string(parent_name), snapshot.name);
  }

  librbd::group_info_t group;
  result = image.get_group(&group, sizeof(group));
  if (result < 0) return failed(result, "group");
  if (!group.name.empty()) {
    std::string pool;
    if (rados_->pool_reverse_lookup(group.pool, &pool) < 0) pool = std::to_string(group.pool);
    description.group = fmt::format("{}/{}", pool, group.name);
  }

  librbd::mirror_image_info_t mirror;
  result = image.mirror_image_get_info(&mirror, sizeof(mirror));
  if (result < 0 && result != -ENOENT && result != -EOPNOTSUPP) return failed(result, "mirroring");
  description.mirroring = result == 0 && mirror.state != RBD_MIRROR_IMAGE_DISABLED;
  return {};
}

Result<Image> RbdCluster::image(const ImageName& name) {
  return guarded(fmt::format("Cannot look at image '{}'", to_string(name)), [&]() -> Result<Image> {
    auto open = open_image(name, For::reading);
    if (!open) return open.error();
    Image description;
    POOLSHIFT_TRY(read_spec((*open)->image, name, description));
    POOLSHIFT_TRY(read_relations((*open)->image, name, description));
    auto watchers = watchers_of((*open)->image, name);
    if (!watchers) return watchers.error();
    description.watchers = std::move(*watchers);
    return description;
  });
}

Result<Usage> RbdCluster::usage(const ImageName& name) {
  return guarded(fmt::format("Cannot measure image '{}'", to_string(name)), [&]() -> Result<Usage> {
    const auto failed = [&](int result) {
      return make_error(result, fmt::format("Cannot measure image '{}'", to_string(name)));
    };
    auto open = open_image(name, For::reading);
    if (!open) return open.error();
    auto& image = (*open)->image;
    librbd::image_info_t info{};
    std::uint64_t features = 0;
    std::uint64_t flags = 0;
    int result = image.stat(info, sizeof(info));
    if (result == 0) result = image.features(&features);
    if (result == 0) result = image.get_flags(&flags);
    if (result < 0) return failed(result);

    // Asking the OSDs for the extents of every object takes minutes for an image of some hundred GiB. The
    // object map tells at once which objects there are; a few that are not may be asked for to have long
    // ranges, since librbd asks for the objects of one range in parallel.
    constexpr std::uint64_t kGapObjects = 16;
    Ranges ranges(kGapObjects * info.obj_size);
    const bool mapped = (features & RBD_FEATURE_FAST_DIFF) != 0 &&
                        (flags & (RBD_FLAG_FAST_DIFF_INVALID | RBD_FLAG_OBJECT_MAP_INVALID)) == 0;
    if (mapped) {
      result = image.diff_iterate2(nullptr, 0, info.size, true, true, add_range, &ranges);
      if (result < 0) return failed(result);
    } else {
      ranges.add(0, info.size);
    }
    // Of a striped image every object of a stripe in which there is something.
    const auto stripe_count = std::max<std::uint64_t>(image.get_stripe_count(), 1);
    Extents extents{info.obj_size * stripe_count, stripe_count};
    for (const auto& [offset, length] : ranges.all()) {
      result = image.diff_iterate2(nullptr, offset, length, true, false, add_extent, &extents);
      if (result < 0) return failed(result);
    }
    return extents.usage;
  });
}

Error RbdCluster::create_error(int result, const std::string& what, const ImageSpec& spec) {
  if (result == -ENOENT && !spec.data_pool.empty() && rados_->pool_lookup(spec.data_pool.c_str()) < 0) {
    return {ErrorCode::not_found, fmt::format("{}: there is no data pool '{}'", what, spec.data_pool),
            "Check the name with 'ceph osd pool ls'."};
  }
  return make_error(result, what);
}

Status RbdCluster::create_image(const ImageName& name, const ImageSpec& spec) {
  return guarded(fmt::format("Cannot create image '{}'", to_string(name)), [&]() -> Status {
    auto io = open_pool(name.pool, name.rbd_namespace);
    if (!io) return io.error();
    librbd::ImageOptions options;
    set_layout(options, spec);
    int result = rbd_.create4(*io, name.image.c_str(), spec.size_bytes, options);
    if (result < 0) return create_error(result, fmt::format("Cannot create image '{}'", to_string(name)), spec);
    if (spec.metadata.empty()) return {};

    auto open = open_image(name, For::writing);
    if (!open) return open.error();
    for (const auto& [key, value] : spec.metadata) {
      result = (*open)->image.metadata_set(key, value);
      if (result < 0) {
        return make_error(result, fmt::format("Cannot set metadata '{}' of image '{}'", key, to_string(name)));
      }
    }
    return {};
  });
}

// Ceph's encoding of a string: its length in four bytes, little-endian, and its bytes.
static std::string as_ceph_encodes(const std::string& text) {
  std::string encoded;
  for (const unsigned shift : {0U, 8U, 16U, 24U}) encoded += static_cast<char>((text.size() >> shift) & 0xffU);
  return encoded + text;
}

Status RbdCluster::rename_image(const ImageName& from, const ImageName& to) {
  const auto what = fmt::format("Cannot rename image '{}' to '{}'", to_string(from), to_string(to));
  return guarded(what, [&]() -> Status {
    if (from.pool != to.pool || from.rbd_namespace != to.rbd_namespace) {
      return Error{ErrorCode::internal, fmt::format("{}: they are in different places", what), "Report this."};
    }
    auto io = open_pool(from.pool, from.rbd_namespace);
    if (!io) return io.error();
    int result = rbd_.rename(*io, from.image.c_str(), to.image.c_str());
    if (result == -EEXIST) {
      const auto id = id_of(*io, from);
      if (id && id == id_of(*io, to)) result = end_rename(*io, from, to, *id);
    }
    if (result < 0) return make_error(result, what);
    return {};
  });
}

std::optional<std::string> RbdCluster::id_of(librados::IoCtx& pool, const ImageName& name) {
  OpenImage open;
  open.pool = pool;
  std::string id;
  if (rbd_.open_read_only(open.pool, open.image, name.image.c_str(), nullptr) < 0) return {};
  return open.image.get_id(&id) < 0 ? std::nullopt : std::optional(id);
}

// librbd makes an object that has the id under the name `to`, changes the pool's list and removes the object of `from`.
// A client that dies meanwhile leaves an image with both names, and librbd's rename then says that `to` exists. These
// are its last two steps.
int RbdCluster::end_rename(librados::IoCtx& pool, const ImageName& from, const ImageName& to, const std::string& id) {
  librados::bufferlist names;
  for (const auto* text : {&from.image, &to.image, &id}) names.append(as_ceph_encodes(*text));
  librados::bufferlist no_output;
  int result = pool.exec("rbd_directory", "rbd", "dir_rename_image", names, no_output);
  if (result < 0 && result != -ENOENT) return result;  // ENOENT: the list has `to` alone
  librados::bufferlist same_id;
  same_id.append(as_ceph_encodes(id));
  librados::ObjectWriteOperation operation;
  operation.cmpext(0, same_id, nullptr);
  operation.remove();
  result = pool.operate("rbd_id." + from.image, &operation);
  return result == -ENOENT ? 0 : result;
}

Status RbdCluster::resize_image(const ImageName& name, std::uint64_t size_bytes) {
  const auto what = fmt::format("Cannot resize image '{}' to {} bytes", to_string(name), size_bytes);
  return guarded(what, [&]() -> Status {
    auto open = open_image(name, For::writing);
    if (!open) return open.error();
    NoProgress progress;
    const int result = (*open)->image.resize2(size_bytes, true, progress);
    if (result < 0) return make_error(result, what);
    return {};
  });
}

Status RbdCluster::sparsify_image(const ImageName& name) {
  const auto what = fmt::format("Cannot sparsify image '{}'", to_string(name));
  return guarded(what, [&]() -> Status {
    auto open = open_image(name, For::writing);
    if (!open) return open.error();
    NoProgress progress;
    const int result = (*open)->image.sparsify_with_progress(kSparseBytes, progress);
    if (result < 0) return make_error(result, what);
    return {};
  });
}

Status RbdCluster::set_metadata(const ImageName& name, const std::string& key, const std::string& value) {
  const auto what = fmt::format("Cannot set metadata '{}' of image '{}'", key, to_string(name));
  return guarded(what, [&]() -> Status {
    auto open = open_image(name, For::writing);
    if (!open) return open.error();
    const int result = (*open)->image.metadata_set(key, value);
    if (result < 0) return make_error(result, what);
    return {};
  });
}

Status RbdCluster::remove_metadata(const ImageName& name, const std::string& key) {
  const auto what = fmt::format("Cannot remove metadata '{}' of image '{}'", key, to_string(name));
  return guarded(what, [&]() -> Status {
    auto open = open_image(name, For::writing);
    if (!open) return open.error();
    const int result = (*open)->image.metadata_remove(key);
    if (result < 0 && result != -ENOENT) return make_error(result, what);
    return {};
  });
}

Status RbdCluster::move_to_trash(const ImageName& name) {
  const auto what = fmt::format("Cannot move image '{}' to the trash", to_string(name));
  return guarded(what, [&]() -> Status {
    // Not there: librbd may still have the name in the pool's list, which is the last that a move takes away.
    {
      auto open = open_image(name, For::reading);
      if (!open && open.error().code != ErrorCode::not_found) return open.error();
      if (open) {
        const auto watchers = watchers_of((*open)->image, name);
        if (!watchers) return watchers.error();
        if (!watchers->empty()) {
          return Error{ErrorCode::busy, fmt::format("{}: {} has it open", what, join(*watchers)),
                       "Wait until that client has closed it; after a crash its watch ends within 30 seconds."};
        }
      }
    }
    auto io = open_pool(name.pool, name.rbd_namespace);
    if (!io) return io.error();
    const int result = rbd_.trash_move(*io, name.image.c_str(), 0);
    if (result == -ENOENT) return open_error(*io, name, result);
    if (result < 0) return make_error(result, what);
    return {};
  });
}

Result<std::vector<TrashedImage>> RbdCluster::trash_of(const ImageName& name) {
  const auto what = fmt::format("Cannot look for image '{}' in the trash", to_string(name));
  return guarded(what, [&]() -> Result<std::vector<TrashedImage>> {
    auto io = open_pool(name.pool, name.rbd_namespace);
    if (!io) return io.error();
    std::vector<librbd::trash_image_info_t> trash;
    int result = rbd_.trash_list(*io, trash);
    if (result < 0) return make_error(result, what);
    std::vector<TrashedImage> found;
    for (const auto& entry : trash) {
      if (entry.name != name.image) continue;
      OpenImage open;
      open.pool = *io;
      result = rbd_.open_by_id_read_only(open.pool, open.image, entry.id.c_str(), nullptr);
      if (result == -ENOENT) continue;  // purged since
      if (result < 0) return make_error(result, what);
      auto watchers = watchers_of(open.image, name);
      if (!watchers) return watchers.error();
      found.push_back({entry.id, std::move(*watchers)});
    }
    return found;
  });
}

Status RbdCluster::restore_from_trash(const ImageName& name, const std::string& id) {
  const auto what = fmt::format("Cannot restore image '{}' from the trash", to_string(name));
  return guarded(what, [&]() -> Status {
    auto io = open_pool(name.pool, name.rbd_namespace);
    if (!io) return io.error();
    const int result = rbd_.trash_restore(*io, id.c_str(), name.image.c_str());
    if (result < 0) return make_error(result, what);
    return {};
  });
}

Status RbdCluster::create_snapshot(const ImageName& name, const std::string& snapshot) {
  const auto what = fmt::format("Cannot create snapshot '{}@{}'", to_string(name), snapshot);
  return guarded(what, [&]() -> Status {
    auto open = open_image(name, For::writing);
    if (!open) return open.error();
    NoProgress progress;
    // Nothing is to be made quiet: the caller has seen to that.
    const int result = (*open)->image.snap_create2(snapshot.c_str(), RBD_SNAP_CREATE_SKIP_QUIESCE, progress);
    if (result < 0) return make_error(result, what);
    return {};
  });
}

// librbd takes a snapshot out of sight before it removes it: a client that dies in between leaves it there, under a
// name of librbd's own. -ENOENT when there is none of either kind.
int RbdCluster::find_snapshot(librbd::Image& image, const std::string& name, std::uint64_t& snapshot_id) {
  std::vector<librbd::snap_info_t> snapshots;
  int result = image.snap_list(snapshots);
  if (result < 0) return result;
  for (const auto& snapshot : snapshots) {
    librbd::snap_namespace_type_t kind{};
    std::string found = snapshot.name;
    result = image.snap_get_namespace_type(snapshot.id, &kind);
    if (result == 0 && kind == RBD_SNAP_NAMESPACE_TYPE_TRASH) {
      result = image.snap_get_trash_namespace(snapshot.id, &found);
    }
    if (result == -ENOENT) continue;  // removed meanwhile
    if (result < 0) return result;
    if (found != name) continue;
    snapshot_id = snapshot.id;
    return 0;
  }
  return -ENOENT;
}

Status RbdCluster::remove_snapshot(const ImageName& name, const std::string& snapshot) {
  const auto what = fmt::format("Cannot remove snapshot '{}@{}'", to_string(name), snapshot);
  return guarded(what, [&]() -> Status {
    std::uint64_t snapshot_id = 0;
    {
      // librbd would not refuse: it takes a snapshot that has clones of format 2 out of sight and keeps it.
      auto open = open_image(name, For::reading);
      if (!open) return open.error();
      auto& image = (*open)->image;
      std::vector<librbd::linked_image_spec_t> clones;
      int result = find_snapshot(image, snapshot, snapshot_id);
      if (result == -ENOENT) return {};
      if (result == 0) result = image.snap_set_by_id(snapshot_id);
      if (result == 0) result = image.list_children3(&clones);
      if (result < 0) return make_error(result, what);
      if (!clones.empty()) {
        const auto& first = clones.front();
        return Error{ErrorCode::busy,
                     fmt::format("{}: it has {} clone(s), one is '{}'", what, clones.size(),
                                 to_string(ImageName{first.pool_name, first.pool_namespace, first.image_name})),
                     "Flatten the clones ('rbd flatten'); one in the trash counts too."};
      }
    }
    auto open = open_image(name, For::writing);
    if (!open) return open.error();
    const int result = (*open)->image.snap_remove_by_id(snapshot_id);
    if (result < 0 && result != -ENOENT) return make_error(result, what);
    return {};
  });
}

Status RbdCluster::clone_image(const ImageName& parent, const std::string& snapshot, const ImageName& name,
                               const ImageSpec& spec) {
  const auto what = fmt::format("Cannot clone '{}@{}' as '{}'", to_string(parent), snapshot, to_string(name));
  return guarded(what, [&]() -> Status {
    auto parent_io = open_pool(parent.pool, parent.rbd_namespace);
    if (!parent_io) return parent_io.error();
    auto io = open_pool(name.pool, name.rbd_namespace);
    if (!io) return io.error();
    librbd::ImageOptions options;
    set_layout(options, spec);
    options.set(RBD_IMAGE_OPTION_CLONE_FORMAT, std::uint64_t{2});
    // What is not told is taken from the parent.
    if (spec.stripe_unit == 0) options.set(RBD_IMAGE_OPTION_STRIPE_UNIT, std::uint64_t{1} << spec.order);
    if (spec.stripe_count == 0) options.set(RBD_IMAGE_OPTION_STRIPE_COUNT, std::uint64_t{1});
    const int result =
        rbd_.clone3(*parent_io, parent.image.c_str(), snapshot.c_str(), *io, name.image.c_str(), options);
    if (result < 0) return create_error(result, what, spec);
    return {};
  });
}

Status RbdCluster::remove_untouched_clone(const ImageName& name) {
  const auto what = fmt::format("Cannot remove clone '{}'", to_string(name));
  return guarded(what, [&]() -> Status {
    auto io = open_pool(name.pool, name.rbd_namespace);
    if (!io) return io.error();
    {
      auto open = open_image(name, For::reading);
      if (!open && open.error().code == ErrorCode::not_found) return {};
      if (!open) return open.error();
      auto& image = (*open)->image;
      librbd::linked_image_spec_t parent;
      librbd::snap_spec_t snapshot;
      const int result = image.get_parent(&parent, &snapshot);
      if (result == -ENOENT) {
        return Error{ErrorCode::refused, fmt::format("{}: it is not a clone", what), "Look at it with 'rbd info'."};
      }
      if (result < 0) return make_error(result, what);
      const auto watchers = watchers_of(image, name);
      if (!watchers) return watchers.error();
      if (!watchers->empty()) {
        return Error{ErrorCode::busy, fmt::format("{}: {} has it open", what, join(*watchers)),
                     "Wait until that client has closed it; after a crash its watch ends within 30 seconds."};
      }
    }
    const auto touched = has_own_data(name);
    if (!touched) return touched.error();
    if (*touched) {
      return Error{ErrorCode::refused, fmt::format("{}: it has data of its own", what),
                   "Find out who wrote to it; 'rbd diff' shows where."};
    }
    NoProgress progress;
    const int result = rbd_.remove_with_progress(*io, name.image.c_str(), progress);
    if (result < 0 && result != -ENOENT) return make_error(result, what);
    return {};
  });
}

Result<bool> RbdCluster::has_own_data(const ImageName& name) {
  const auto what = fmt::format("Cannot look for data of image '{}'", to_string(name));
  return guarded(what, [&]() -> Result<bool> {
    auto open = open_image(name, For::reading);
    if (!open) return open.error();
    auto& image = (*open)->image;
    std::uint64_t size_bytes = 0;
    int result = image.size(&size_bytes);
    bool found = false;
    if (result == 0) result = image.diff_iterate2(nullptr, 0, size_bytes, false, true, stop_at_data, &found);
    if (found) return true;
    if (result < 0) return make_error(result, what);
    return false;
  });
}

Result<std::vector<std::uint64_t>> RbdCluster::snapshot_objects(const ImageName& name, const std::string& snapshot) {
  const auto what = fmt::format("Cannot list the objects of '{}@{}'", to_string(name), snapshot);
  return guarded(what, [&]() -> Result<std::vector<std::uint64_t>> {
    auto open = open_image(name, For::reading);
    if (!open) return open.error();
    auto& image = (*open)->image;
    librbd::image_info_t info{};
    int result = image.snap_set(snapshot.c_str());
    if (result == 0) result = image.stat(info, sizeof(info));
    if (result < 0) return make_error(result, what);
    ObjectNumbers numbers{info.obj_size, {}};
    result = image.diff_iterate2(nullptr, 0, info.size, false, true, add_objects, &numbers);
    if (result < 0) return make_error(result, what);
    return std::move(numbers.all);
  });
}

Result<DataObjects> RbdCluster::data_objects_of(librbd::Image& image, const ImageName& name) {
  DataObjects objects;
  const int result = rados_->ioctx_create2(image.get_data_pool_id(), objects.pool);
  if (result < 0) return make_error(result, fmt::format("Cannot open the data pool of image '{}'", to_string(name)));
  objects.pool.set_namespace(name.rbd_namespace);
  objects.prefix = image.get_block_name_prefix();
  return objects;
}

Result<std::unique_ptr<ObjectCopier>> RbdCluster::object_copier(const ImageName& name, const std::string& snapshot,
                                                                const ImageName& clone) {
  const auto what = fmt::format("Cannot copy objects of '{}@{}' to '{}'", to_string(name), snapshot, to_string(clone));
  return guarded(what, [&]() -> Result<std::unique_ptr<ObjectCopier>> {
    auto source = open_image(name, For::reading);
    if (!source) return source.error();
    auto target = open_image(clone, For::reading);
    if (!target) return target.error();
    auto& from = (*source)->image;
    auto& to = (*target)->image;
    std::string source_id;
    std::uint64_t snapshot_id = 0;
    librbd::image_info_t source_info{};
    librbd::image_info_t target_info{};
    int result = from.get_id(&source_id);
    if (result == 0) result = from.snap_get_id(snapshot, &snapshot_id);
    if (result == 0) result = from.stat(source_info, sizeof(source_info));
    if (result == 0) result = to.stat(target_info, sizeof(target_info));
    if (result < 0) return make_error(result, what);

    // An object that an image without this parent does not have was never there, or was discarded by the guest.
    librbd::linked_image_spec_t parent;
    librbd::snap_spec_t parent_snapshot;
    result = to.get_parent(&parent, &parent_snapshot);
    if (result < 0 && result != -ENOENT) return make_error(result, what);
    if (result == -ENOENT || parent.image_id != source_id || parent.pool_name != name.pool ||
        parent_snapshot.id != snapshot_id) {
      return Error{ErrorCode::refused, fmt::format("{}: it is not a clone of that snapshot", what),
                   "Look at its parent with 'rbd info'."};
    }
    const auto plain = [](librbd::Image& image, const librbd::image_info_t& info) {
      return image.get_stripe_count() <= 1 && image.get_stripe_unit() == info.obj_size;
    };
    if (source_info.obj_size != target_info.obj_size || !plain(from, source_info) || !plain(to, target_info)) {
      return Error{ErrorCode::unsupported, fmt::format("{}: their data is cut into objects in different ways", what),
                   "Flatten the clone instead."};
    }
    auto source_objects = data_objects_of(from, name);
    if (!source_objects) return source_objects.error();
    auto target_objects = data_objects_of(to, clone);
    if (!target_objects) return target_objects.error();
    source_objects->pool.snap_set_read(snapshot_id);
    return std::unique_ptr<ObjectCopier>(
        std::make_unique<RbdObjectCopier>(std::move(*source_objects), std::move(*target_objects), what));
  });
}

Status RbdCluster::run_watched(std::unique_ptr<OpenImage> open, const std::string& what,
                               LongOperation::Function function, const Watching& watching) {
  const auto result =
      LongOperation::run(std::make_shared<LongOperation>(rados_, std::move(open), std::move(function)), watching);
  if (!result) return Error{ErrorCode::left, fmt::format("{}: not waited for", what), "It goes on by itself."};
  if (*result < 0) return make_error(*result, what);
  return {};
}

Status RbdCluster::rebuild_object_map(const ImageName& name, const Watching& watching) {
  const auto what = fmt::format("Cannot rebuild the object map of image '{}'", to_string(name));
  return guarded(what, [&]() -> Status {
    auto open = open_image(name, For::writing);
    if (!open) return open.error();
    std::uint64_t features = 0;
    const int result = (*open)->image.features(&features);
    if (result < 0) return make_error(result, what);
    if ((features & RBD_FEATURE_OBJECT_MAP) == 0) return {};
    return run_watched(
        std::move(*open), what,
        [](librbd::Image& image, librbd::ProgressContext& progress) { return image.rebuild_object_map(progress); },
        watching);
  });
}

Status RbdCluster::set_features(const ImageName& name, std::uint64_t features, bool on, const std::string& what) {
  return guarded(what, [&]() -> Status {
    // Those of `features` that are not yet as they should be.
    const auto to_change = [&]() -> Result<std::uint64_t> {
      auto open = open_image(name, For::reading);
      if (!open) return open.error();
      std::uint64_t present = 0;
      const int result = (*open)->image.features(&present);
      if (result < 0) return make_error(result, what);
      return features & (on ? ~present : present);
    };
    const auto changed = to_change();
    if (!changed) return changed.error();
    if (*changed == 0) return {};
    auto open = open_image(name, For::writing);
    if (!open) return open.error();
    // When another client does it for us, librbd was seen not to return although it was done.
    const auto is_done = [&] {
      const auto left = to_change();
      return left && *left == 0;
    };
    const auto status = run_watched(
        std::move(*open), what,
        [mask = *changed, on](librbd::Image& image, librbd::ProgressContext&) {
          return image.update_features(mask, on);
        },
        [&](auto, auto) { return !is_done(); });
    if (status || is_done()) return {};
    return status;
  });
}

Status RbdCluster::drop_object_map(const ImageName& name) {
  return set_features(name, kObjectMapFeatures, false,
                      fmt::format("Cannot remove the object map of image '{}'", to_string(name)));
}

Status RbdCluster::add_object_map(const ImageName& name, std::uint64_t features) {
  return set_features(name, features & kObjectMapFeatures, true,
                      fmt::format("Cannot give image '{}' an object map", to_string(name)));
}

Status RbdCluster::flatten_image(const ImageName& name, const Watching& watching) {
  const auto what = fmt::format("Cannot flatten image '{}'", to_string(name));
  return guarded(what, [&]() -> Status {
    auto open = open_image(name, For::writing);
    if (!open) return open.error();
    librbd::linked_image_spec_t parent;
    librbd::snap_spec_t snapshot;
    const int result = (*open)->image.get_parent(&parent, &snapshot);
    if (result == -ENOENT) return {};
    if (result < 0) return make_error(result, what);
    return run_watched(
        std::move(*open), what,
        [](librbd::Image& image, librbd::ProgressContext& progress) { return image.flatten_with_progress(progress); },
        watching);
  });
}

class RbdStorage final : public Storage {
 public:
  Result<std::unique_ptr<Cluster>> connect(const ClusterAccess& access, const std::string& key) override {
    return guarded("Cannot connect to the cluster", [&]() -> Result<std::unique_ptr<Cluster>> {
      auto cluster = std::make_unique<RbdCluster>();
      POOLSHIFT_TRY(cluster->connect(access, key));
      return std::unique_ptr<Cluster>(std::move(cluster));
    });
  }

  std::string version() override {
    int major = 0;
    int minor = 0;
    int extra = 0;
    librbd::RBD().version(&major, &minor, &extra);
    return fmt::format("{}.{}.{}", major, minor, extra);
  }
};

}  // namespace

std::unique_ptr<Storage> make_rbd_storage() { return std::make_unique<RbdStorage>(); }

}  // namespace poolshift
