#include "flow/validate.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "flow/choose.h"
#include "flow/tag.h"

namespace poolshift {

namespace {

// Features that make an image something else than the guest's disk expects, or that QEMU or we would have to know of.
constexpr std::uint64_t kFeatureLayering = 1;
constexpr std::uint64_t kFeatureStriping = 2;
constexpr std::uint64_t kFeatureExclusiveLock = 4;
constexpr std::uint64_t kFeatureFastDiff = 16;
constexpr std::uint64_t kFeatureDeepFlatten = 32;
constexpr std::uint64_t kFeatureDataPool = 128;
constexpr std::uint64_t kFeatureOperations = 256;
constexpr std::uint64_t kKeptFeatures = kFeatureLayering | kFeatureStriping | kFeatureExclusiveLock |
                                        kFeatureObjectMap | kFeatureFastDiff | kFeatureDeepFlatten | kFeatureDataPool |
                                        kFeatureOperations;
// Set by librbd as the image's state demands, never asked for at creation.
constexpr std::uint64_t kImplicitFeatures = kFeatureStriping | kFeatureDataPool | kFeatureOperations;

constexpr std::uint64_t kMiB = 1024 * 1024;

class Validator {
 public:
  Validator(Ports ports, JobStore& store, const SwapRequest& request, const ValidateOptions& options)
      : ports_(ports), store_(store), request_(request), options_(options) {
    out_.plan = plan_for(request);
  }

  // The groups build on each other: the first that refuses is the last that is looked at.
  Result<Validation> run() {
    using Group = Status (Validator::*)();
    for (const Group group :
         {&Validator::check_domain, &Validator::check_disk, &Validator::check_other_domains, &Validator::check_clusters,
          &Validator::check_source, &Validator::check_target_pool, &Validator::check_target, &Validator::check_engine,
          &Validator::check_room, &Validator::check_open_jobs}) {
      POOLSHIFT_TRY((this->*group)());
      if (out_.refused()) break;
    }
    out_.plan.checks = out_.checks;
    return std::move(out_);
  }

 private:
  void pass(const char* name, std::string found) { add(name, Check::Outcome::pass, std::move(found), ""); }
  void warn(const char* name, std::string found, std::string advice) {
    add(name, Check::Outcome::warn, std::move(found), std::move(advice));
  }
  void refuse(const char* name, std::string found, std::string advice) {
    add(name, Check::Outcome::refuse, std::move(found), std::move(advice));
  }
  void add(const char* name, Check::Outcome outcome, std::string found, std::string advice) {
    out_.checks.push_back({name, outcome, std::move(found), std::move(advice)});
  }
  // An error of a port is a refusal with the port's own words, unless nobody answered.
  Status refuse_or_fail(const char* name, const Error& error) {
    if (error.code == ErrorCode::unreachable) return error;
    refuse(name, error.message, error.advice);
    return {};
  }

  // A handover is the default where everything that it needs is given; where it was asked for, the lack is a refusal.
  Status check_engine() {
    JobRecord& plan = out_.plan;
    plan.engine = kMirror;
    plan.engine_reason = "asked for";
    if (request_.engine == Engine::mirror && plan.offline) {
      refuse("offline",
             fmt::format("engine mirror copies in the guest's QEMU, and domain '{}' is shut off", domain_.name),
             "Use engine handover, or start the domain.");
    }
    if (request_.engine == Engine::mirror) return {};
    // A clone is the only way to move a disk without QEMU.
    const bool asked_for = request_.engine == Engine::handover || plan.offline;
    const auto obstacle = handover_obstacle(asked_for);
    if (!obstacle) return obstacle.error();
    if (*obstacle && asked_for) {
      const char* way_out = plan.offline ? " Started, the guest can be moved by engine mirror." : "";
      refuse((*obstacle)->name.c_str(), (*obstacle)->found, (*obstacle)->advice + way_out);
    } else if (*obstacle) {
      warn((*obstacle)->name.c_str(), (*obstacle)->found, (*obstacle)->advice + " Engine mirror is used.");
      plan.engine_reason = fmt::format("no handover ({}): {}", (*obstacle)->name, (*obstacle)->found);
    } else if (const auto why = why_mirror(source_usage_.bytes, plan.target_spec.size_bytes);
               !asked_for && !why.empty()) {
      plan.engine_reason = why;
      pass("handover", fmt::format("the guest could be handed over, but engine mirror is used: {}", why));
    } else {
      plan.engine = kHandover;
      plan.engine_reason = asked_for ? "asked for" : "everything that a handover needs is given";
      if (plan.offline) plan.engine_reason = "the domain is shut off";
      plan.max_pause_ms = plan.offline ? 0 : request_.max_pause_ms;
      const char* flattens = plan.offline ? "librbd copies the data" : "QEMU copies the data";
      pass("handover", fmt::format("the guest can be handed over; {} ({})",
                                   plan.hydration == Hydration::offload ? "the OSDs copy the data" : flattens,
                                   plan.hydration_reason));
    }
    return {};
  }

  // The first thing that stands in the way of a handover.
  Result<std::optional<Check>> handover_obstacle(bool asked_for) {
    const auto obstacle = [](const char* name, std::string found, std::string advice) {
      return std::optional(Check{name, Check::Outcome::warn, std::move(found), std::move(advice)});
    };
    const auto source_name = to_string(*disk_.image);
    const auto target_name = to_string(request_.target);
    const ImageSpec& target = out_.plan.target_spec;
    if ((source_.spec.features & kFeatureLayering) == 0) {
      return obstacle("handover_layering",
                      fmt::format("source {} cannot be cloned: it has no feature layering", source_name),
                      "Nothing can be done: layering cannot be added to an image.");
    }
    if ((target.features & kFeatureLayering) == 0) {
      return obstacle("handover_layering",
                      fmt::format("target {} cannot be a clone: it has no feature layering", target_name),
                      "Create the target with the feature layering.");
    }
    if ((source_.spec.features & ~kKeptFeatures) != 0 || source_.mirroring) {
      return obstacle("handover_features", fmt::format("source {} is mirrored or journaled", source_name),
                      "Disable mirroring and journaling for the time of the swap.");
    }
    if (!source_.group.empty()) {
      return obstacle("handover_group", fmt::format("source {} is in group {}", source_name, source_.group),
                      "Take it out of the group.");
    }
    // The clone has the source's bytes as they are, and the target is raw.
    if (!disk_.format.empty() && disk_.format != "raw") {
      return obstacle("handover_format",
                      fmt::format("disk '{}' has the format {} on its image", disk_.target, disk_.format),
                      "Only raw images can be cloned.");
    }
    // QEMU reads what the target does not have yet from the source, as the target's user.
    if (auto rights = target_cluster_->may_write(disk_.image->pool, disk_.image->rbd_namespace); !rights) {
      if (rights.error().code == ErrorCode::unreachable) return rights.error();
      return obstacle("handover_rights", rights.error().message,
                      fmt::format("Give the target's user 'profile rbd' on pool '{}'.", disk_.image->pool));
    }
    if (out_.plan.offline) return layout_obstacle(asked_for);
    if (auto folder = ports_.system.make_passable_folder(options_.overlay_dir); !folder) {
      return obstacle("handover_overlay", folder.error().message, folder.error().advice);
    }
    if (auto guardian = ports_.system.file_bytes(options_.guardian); !guardian) {
      return obstacle("handover_guardian", guardian.error().message, "Install PoolShift whole, or name its guardian.");
    }
    return layout_obstacle(asked_for);
  }

  Result<std::optional<Check>> layout_obstacle(bool asked_for) {
    const ImageSpec& target = out_.plan.target_spec;
    const bool is_striped = source_.spec.stripe_count > 1 || target.stripe_count > 1;
    std::string why_not_offload;
    if (is_striped) why_not_offload = "an image is striped";
    if (source_.spec.order != target.order) why_not_offload = "source and target have objects of different sizes";
    if (request_.hydration == Hydration::offload && !why_not_offload.empty()) {
      return std::optional(Check{"handover_layout", Check::Outcome::warn,
                                 fmt::format("the OSDs cannot copy: {}", why_not_offload),
                                 "Use --hydrate auto or flatten, or a target with the source's layout."});
    }
    JobRecord& plan = out_.plan;
    plan.hydration = why_not_offload.empty() ? Hydration::offload : Hydration::flatten;
    plan.hydration_reason = why_not_offload.empty() ? "source and target have the same layout" : why_not_offload;
    if (request_.hydration) {
      plan.hydration = *request_.hydration;
      plan.hydration_reason = "asked for";
    }
    if (plan.hydration == Hydration::flatten && request_.bandwidth_bytes_per_s != 0) {
      return std::optional(
          Check{"handover_bandwidth", Check::Outcome::warn,
                fmt::format("a bandwidth was given, and flattening cannot be limited ({})", plan.hydration_reason),
                "Leave out --bandwidth, or use --engine mirror."});
    }
    // The OSDs copy what the source itself has. librbd flattens the rest.
    if (plan.hydration == Hydration::offload && !source_.parent.empty() && request_.bandwidth_bytes_per_s != 0) {
      Check check{"handover_bandwidth", Check::Outcome::warn,
                  fmt::format("a bandwidth was given, and what source {} has from its parent {} is flattened, which "
                              "cannot be limited",
                              to_string(*disk_.image), source_.parent),
                  "Leave out --bandwidth, or use --engine mirror."};
      if (!asked_for) return std::optional(std::move(check));
      out_.checks.push_back(std::move(check));
    }
    return std::optional<Check>();
  }

  Status check_domain() {
    auto domain = ports_.hypervisor.find_domain(request_.domain);
    if (!domain) return refuse_or_fail("domain", domain.error());
    domain_ = *domain;
    if (domain_.has_saved_state) {
      refuse("saved_state", fmt::format("domain '{}' is shut off with a saved state", domain_.name),
             fmt::format("It would go on with the source: start it, or drop the state with 'virsh "
                         "managedsave-remove {}'.",
                         domain_.name));
      return {};
    }
    out_.plan.offline = !is_active(domain_);
    const char* state = domain_.state == DomainState::paused ? "paused" : "running";
    pass("domain", fmt::format("domain '{}' is {}", domain_.name, out_.plan.offline ? "shut off" : state));
    return {};
  }

  Status check_disk() {
    const Disk* disk = domain_.disk(request_.disk);
    if (disk == nullptr) {
      std::vector<std::string> targets;
      for (const auto& known : domain_.disks) targets.push_back(known.target);
      refuse("disk", fmt::format("domain '{}' has no disk '{}'", domain_.name, request_.disk),
             fmt::format("Its disks are: {}.", fmt::join(targets, ", ")));
      return {};
    }
    disk_ = *disk;
    out_.plan.source = disk_.image.value_or(ImageName{});
    const auto where = fmt::format("disk '{}' of domain '{}'", disk_.target, domain_.name);
    if (!disk_.image) {
      refuse("disk", fmt::format("{} is {}, not an RBD image", where, disk_.described_source),
             "PoolShift moves RBD disks only; use 'virsh blockcopy' for others.");
      return {};
    }
    if (request_.source && *request_.source != *disk_.image) {
      refuse(
          "disk_source",
          fmt::format("{} is on {}, the request names {}", where, to_string(*disk_.image), to_string(*request_.source)),
          "Ask again with the image that the disk is on.");
    }
    if (disk_.shareable) {
      refuse("shareable", fmt::format("{} is <shareable/>", where),
             "A disk that several guests write cannot be moved under one of them; detach it from the others and "
             "remove <shareable/>.");
    }
    if (disk_.read_only) {
      refuse("read_only", fmt::format("{} is read-only", where), "Copy the image with 'rbd cp' and change the XML.");
    }
    if (disk_.encrypted) {
      refuse("encryption", fmt::format("{} is encrypted by the hypervisor", where),
             "Encrypted disks are not supported: a copy would be written without the encryption.");
    }
    if (disk_.has_overlay) {
      refuse("overlay", fmt::format("{} has a backing file", where),
             "Commit it first with 'virsh blockcommit --active --pivot'.");
    }
    if (disk_.mirror || disk_.commits || disk_.other_block_job) {
      refuse("block_job", fmt::format("{} has a block job already", where),
             "Wait for it, or end it with 'virsh blockjob --abort'.");
    }
    check_disk_xml(where);
    if (out_.refused()) return {};
    pass("disk", fmt::format("{} is {}", where, to_string(*disk_.image)));
    if (out_.plan.offline) return {};
    auto counters = ports_.hypervisor.disk_counters(domain_.uuid, disk_.target);
    if (!counters) return refuse_or_fail("disk", counters.error());
    out_.counters = *counters;
    out_.counters_ms = ports_.system.monotonic_ms();
    return {};
  }

  // What is not known might not be on the disk any more after the swap, or mean something else there.
  void check_disk_xml(const std::string& where) {
    auto parts = disk_.unsupported_parts;
    const Disk* persistent = persistent_disk();
    if (persistent != nullptr) {
      for (const auto& part : persistent->unsupported_parts) {
        if (std::find(parts.begin(), parts.end(), part) == parts.end()) parts.push_back(part);
      }
    }
    out_.plan.disk_xml = disk_.comparable_xml;
    out_.plan.persistent_disk_xml = persistent == nullptr ? "" : persistent->comparable_xml;
    if (parts.empty()) return;
    refuse("disk_xml", fmt::format("{} has {}, which PoolShift does not support", where, fmt::join(parts, ", ")),
           "Remove it with 'virsh edit' if the guest can do without it; else move the disk by other means.");
  }

  const Disk* persistent_disk() const {
    for (const auto& disk : domain_.persistent_disks) {
      if (disk.target == disk_.target) return &disk;
    }
    return nullptr;
  }

  // Image names are compared without their cluster: two clusters with the same names on one host cost a refusal,
  // the other mistake would cost data.
  Status check_other_domains() {
    auto domains = ports_.hypervisor.list_domains();
    if (!domains) return refuse_or_fail("other_domains", domains.error());
    for (const auto& other : *domains) {
      auto disks = other.disks;
      disks.insert(disks.end(), other.persistent_disks.begin(), other.persistent_disks.end());
      for (const auto& disk : disks) {
        const bool is_ours = other.uuid == domain_.uuid && disk.target == disk_.target;
        if (disk.image == disk_.image && !is_ours) {
          refuse("other_domains",
                 fmt::format("source {} is also disk '{}' of domain '{}'", to_string(*disk_.image), disk.target,
                             other.name),
                 "Detach it there first: the source must be attached to one instance only.");
          return {};
        }
        const bool is_target = disk.image == request_.target || (disk.mirror && disk.mirror->image == request_.target);
        if (is_target && !(is_ours && disk.image == disk_.image)) {
          refuse(
              "other_domains",
              fmt::format("target {} is disk '{}' of domain '{}'", to_string(request_.target), disk.target, other.name),
              "Choose a target that no domain uses.");
          return {};
        }
      }
    }
    pass("other_domains", fmt::format("no other disk of {} domains uses source or target", domains->size()));
    return {};
  }

  ClusterAccess overridden(ClusterAccess access) const {
    if (options_.ceph_conf.empty()) return access;
    access.conf_path = options_.ceph_conf;
    access.mon_hosts.clear();
    return access;
  }

  Status check_clusters() {
    out_.plan.source_access = overridden(disk_.access);
    out_.plan.target_access = request_.target_access ? *request_.target_access : out_.plan.source_access;
    auto source = connect_cluster(ports_, out_.plan.source_access);
    if (!source) return refuse_or_fail("cluster", source.error());
    source_cluster_ = std::move(*source);
    auto source_fsid = source_cluster_->fsid();
    if (!source_fsid) return refuse_or_fail("cluster", source_fsid.error());
    target_cluster_ = source_cluster_.get();
    if (!options_.ceph_conf.empty() && !disk_.access.mon_hosts.empty()) {
      POOLSHIFT_TRY(check_same_cluster(disk_.access, *source_fsid, "the cluster that the domain uses"));
    }
    if (!out_.refused() && out_.plan.target_access != out_.plan.source_access) {
      POOLSHIFT_TRY(check_same_cluster(out_.plan.target_access, *source_fsid, "the cluster of the target"));
      target_cluster_ = other_cluster_.get();
    }
    if (!out_.refused()) pass("cluster", fmt::format("source and target are in cluster {}", *source_fsid));
    return {};
  }

  Status check_same_cluster(const ClusterAccess& access, const std::string& source_fsid, const char* whose) {
    auto other = connect_cluster(ports_, access);
    if (!other) return refuse_or_fail("cluster", other.error());
    other_cluster_ = std::move(*other);
    auto fsid = other_cluster_->fsid();
    if (!fsid) return refuse_or_fail("cluster", fsid.error());
    if (*fsid != source_fsid) {
      refuse("cluster", fmt::format("{} is {}, but the swap would use cluster {}", whose, *fsid, source_fsid),
             "A swap stays inside one cluster: check --ceph-conf, CEPH_CONF and the target's access.");
    }
    return {};
  }

  Status check_source() {
    const auto& name = *disk_.image;
    auto source = source_cluster_->image(name);
    if (!source) return refuse_or_fail("source", source.error());
    source_ = *source;
    if (out_.plan.offline && !source_.watchers.empty()) {
      refuse("source_watchers",
             fmt::format("source {} is open in {} clients ({}), expected none: the domain is shut off", to_string(name),
                         source_.watchers.size(), fmt::join(source_.watchers, ", ")),
             "Close it there ('rbd status' lists who has it open); a client that died is forgotten after 30 s.");
    } else if (!out_.plan.offline && source_.watchers.size() != 1) {
      refuse("source_watchers",
             fmt::format("source {} is open in {} clients ({}), expected only the guest's QEMU", to_string(name),
                         source_.watchers.size(), fmt::join(source_.watchers, ", ")),
             "Close it elsewhere ('rbd status' lists who has it open): it must be attached to one instance only.");
    }
    if (!source_.group.empty()) {
      warn("source_group", fmt::format("source {} is in group {}", to_string(name), source_.group),
           "The target will not be in the group; take no group snapshot during the swap.");
    }
    if (source_.migrating) {
      refuse("source_migration", fmt::format("source {} has an 'rbd migration' under way", to_string(name)),
             "Finish it with 'rbd migration commit' or 'abort' first.");
    }
    if (source_.mirroring) {
      warn("source_mirroring", fmt::format("source {} is mirrored by rbd-mirror", to_string(name)),
           "Enable mirroring on the target after the swap.");
    }
    if (!source_.snapshots.empty()) {
      warn("source_snapshots", fmt::format("source {} has {} snapshots", to_string(name), source_.snapshots.size()),
           "They stay with the source: keep it as long as they are needed.");
      if (request_.source_after == SourceAfter::trash) {
        refuse("source_snapshots", fmt::format("source {} has snapshots and is to go to the trash", to_string(name)),
               "Use --source keep, or remove the snapshots.");
      }
    }
    if (out_.refused()) return {};
    auto used = source_cluster_->usage(name);
    if (!used) return refuse_or_fail("source", used.error());
    source_usage_ = *used;
    pass("source", fmt::format("source {} has {} bytes, {} used, {} client", to_string(name), source_.spec.size_bytes,
                               source_usage_.bytes, out_.plan.offline ? "no" : "one"));
    return {};
  }

  Status check_target_pool() {
    if (request_.target == *disk_.image) {
      refuse("target", fmt::format("target {} is the source", to_string(request_.target)), "Choose another image.");
      return {};
    }
    POOLSHIFT_TRY(check_namespace());
    if (out_.refused()) return {};
    const auto& name = request_.target.pool;
    auto pool = target_cluster_->pool(name);
    if (!pool) return refuse_or_fail("target_pool", pool.error());
    POOLSHIFT_TRY(check_pool_state(name, *pool));
    if (pool->erasure_coded) {
      refuse("target_pool", fmt::format("target pool '{}' is erasure-coded", name),
             "An image's own pool must be replicated: create the target there with --data-pool, then swap to it.");
    }
    if (out_.refused()) return {};
    data_pool_name_ = name;
    data_pool_ = *pool;
    if (auto rights = target_cluster_->may_write(name, request_.target.rbd_namespace); !rights) {
      return refuse_or_fail("target_rights", rights.error());
    }
    if (auto rights = source_cluster_->may_write(disk_.image->pool, disk_.image->rbd_namespace); !rights) {
      return refuse_or_fail("source_rights", rights.error());
    }
    POOLSHIFT_TRY(check_health());
    if (!out_.refused()) pass("target_pool", fmt::format("target pool '{}' is healthy and writable", name));
    return {};
  }

  // An older libvirt hands 'NAMESPACE/IMAGE' to QEMU as the name of an image (docs/adr/0005-namespaces.md). A source
  // that is in a namespace proves that this one does not.
  Status check_namespace() {
    if (request_.target.rbd_namespace.empty() || !disk_.image->rbd_namespace.empty()) return {};
    const auto versions = ports_.hypervisor.versions();
    if (!versions) return refuse_or_fail("rbd_namespace", versions.error());
    int major = 0;
    int minor = 0;
    std::sscanf(versions->libvirt.c_str(), "%d.%d", &major, &minor);
    if (std::pair(major, minor) >= kFirstLibvirtWithNamespaces) return {};
    refuse("rbd_namespace",
           fmt::format("target {} is in a namespace, and libvirt {} cannot open images there",
                       to_string(request_.target), versions->libvirt),
           "Use an image in the pool's default namespace.");
    return {};
  }

  Status check_pool_state(const std::string& name, const Pool& pool) {
    if (!pool.has_application_rbd) {
      refuse("target_pool", fmt::format("pool '{}' has no application 'rbd'", name),
             fmt::format("Run 'ceph osd pool application enable {} rbd' if it is meant for images.", name));
    }
    if (const char* flag = grave_flag(pool)) {
      refuse("target_pool_flags", fmt::format("pool '{}' has the flag '{}'", name, flag),
             "Make room in it or add OSDs, then try again.");
    }
    if (pool.quota_bytes != 0 && pool.quota_used_bytes >= pool.quota_bytes) {
      refuse("quota_bytes",
             fmt::format("pool '{}' holds {} of {} bytes that its quota allows", name, pool.quota_used_bytes,
                         pool.quota_bytes),
             fmt::format("Raise it with 'ceph osd pool set-quota {} max_bytes'.", name));
    }
    if (pool.quota_objects != 0 && pool.objects >= pool.quota_objects) {
      refuse(
          "quota_objects",
          fmt::format("pool '{}' holds {} of {} objects that its quota allows", name, pool.objects, pool.quota_objects),
          fmt::format("Raise it with 'ceph osd pool set-quota {} max_objects'.", name));
    }
    return {};
  }

  // A `profile rbd` user may not list PGs; the health checks name pools that are not available.
  Status check_health() {
    auto checks = target_cluster_->health();
    if (!checks && checks.error().code == ErrorCode::unreachable) return checks.error();
    if (!checks) {
      warn("health", checks.error().message, "Look at 'ceph health detail' yourself before a large swap.");
      return {};
    }
    for (const auto& check : *checks) {
      if (check.name == "PG_AVAILABILITY" || check.name == "OSD_FULL") {
        refuse("health", fmt::format("the cluster reports {}: {}", check.name, check.summary),
               "Wait until all PGs are active ('ceph health detail').");
      } else if (check.severity == "HEALTH_ERR") {
        warn("health", fmt::format("the cluster reports {}: {}", check.name, check.summary),
             "See 'ceph health detail'.");
      }
    }
    return {};
  }

  Status check_target() {
    const auto& name = request_.target;
    auto target = target_cluster_->image(name);
    if (!target && target.error().code == ErrorCode::not_found && request_.create) {
      plan_created_target();
      pass("target",
           fmt::format("target {} will be created with {} bytes", to_string(name), out_.plan.target_spec.size_bytes));
      return {};
    }
    if (!target && target.error().code == ErrorCode::not_found) {
      refuse("target", fmt::format("target {} does not exist", to_string(name)),
             "Create it with 'rbd create', or add --create.");
      return {};
    }
    if (!target) return refuse_or_fail("target", target.error());
    if (request_.create) {
      refuse("target", fmt::format("target {} exists, and --create was given", to_string(name)),
             "Choose another name, or leave out --create to use it.");
      return {};
    }
    check_target_state(*target);
    if (out_.refused()) return {};
    auto used = target_cluster_->usage(name);
    if (!used) return refuse_or_fail("target", used.error());
    if (used->bytes != 0) {
      refuse("target_empty", fmt::format("target {} holds {} bytes already", to_string(name), used->bytes),
             "Give an empty image: PoolShift never overwrites data.");
      return {};
    }
    out_.plan.target_spec = target->spec;
    out_.plan.target_id = target->id;
    if (!target->spec.data_pool.empty()) POOLSHIFT_TRY(check_data_pool(target->spec.data_pool));
    if (!out_.refused()) {
      pass("target", fmt::format("target {} is empty and unused, {} bytes", to_string(name), target->spec.size_bytes));
    }
    return {};
  }

  // The source's layout, in the target's pool. Striping is kept: it is part of what the guest's I/O was tuned for.
  void plan_created_target() {
    ImageSpec& spec = out_.plan.target_spec;
    spec = source_.spec;
    spec.features = source_.spec.features & kKeptFeatures & ~kImplicitFeatures;
    spec.data_pool.clear();
    std::erase_if(spec.metadata, [](const auto& entry) { return is_poolshift_key(entry.first); });
    out_.plan.create_target = true;
  }

  void check_target_state(const Image& target) {
    const auto name = to_string(request_.target);
    if (!target.watchers.empty()) {
      refuse("target_watchers",
             fmt::format("target {} is open in {} clients ({})", name, target.watchers.size(),
                         fmt::join(target.watchers, ", ")),
             "Close it there; 'rbd status' lists who has it open.");
    }
    if (!target.lockers.empty()) {
      refuse("target_locks", fmt::format("target {} is locked by {}", name, fmt::join(target.lockers, ", ")),
             "Make sure that nobody uses it, then 'rbd lock rm'.");
    }
    if (target.spec.size_bytes < source_.spec.size_bytes) {
      refuse("target_size",
             fmt::format("target {} has {} bytes, less than the source's {}", name, target.spec.size_bytes,
                         source_.spec.size_bytes),
             fmt::format("Grow it: 'rbd resize --size {}B {}'.", source_.spec.size_bytes, name));
    }
    if (const auto extra = target.spec.features & ~kKeptFeatures; extra != 0) {
      refuse("target_features", fmt::format("target {} has features (0x{:x}) that cannot be kept", name, extra),
             "Use an image without journaling and migration.");
    }
    const std::pair<bool, const char*> states[] = {{target.migrating, "has an 'rbd migration' under way"},
                                                   {target.mirroring, "is mirrored by rbd-mirror"},
                                                   {!target.parent.empty(), "is a clone"},
                                                   {!target.group.empty(), "is in a group"},
                                                   {!target.snapshots.empty(), "has snapshots"}};
    for (const auto& [is_so, what] : states) {
      if (is_so) {
        refuse("target_state", fmt::format("target {} {}", name, what), "Give a plain, empty image.");
      }
    }
    if (const auto job = job_of(target); !job.empty()) {
      refuse("target_state", fmt::format("target {} belongs to job '{}'", name, job),
             fmt::format("Run 'poolshift recover {}' on the host that began it.", job));
    }
  }

  Status check_data_pool(const std::string& name) {
    auto pool = target_cluster_->pool(name);
    if (!pool) return refuse_or_fail("target_data_pool", pool.error());
    if (pool->erasure_coded && !pool->allows_ec_overwrites) {
      refuse("target_data_pool", fmt::format("data pool '{}' is erasure-coded without overwrites", name),
             fmt::format("Run 'ceph osd pool set {} allow_ec_overwrites true'.", name));
    }
    POOLSHIFT_TRY(check_pool_state(name, *pool));
    if (auto rights = target_cluster_->may_write(name, request_.target.rbd_namespace); !rights) {
      return refuse_or_fail("target_rights", rights.error());
    }
    data_pool_name_ = name;
    data_pool_ = *pool;
    return {};
  }

  // What the copy may take meanwhile: without unmap QEMU writes every zero (see docs/adr/0003-thin.md). A clone gets
  // only what the source has.
  Status check_room() {
    const bool thick_meanwhile =
        out_.plan.engine == kMirror && (!disk_.unmaps || (source_.spec.features & kFeatureFastDiff) == 0);
    const auto least_bytes = with_reserve(source_usage_.bytes);
    if (data_pool_.max_avail_bytes < least_bytes) {
      refuse("room",
             fmt::format("pool '{}' has room for {} bytes, the swap needs {}", data_pool_name_,
                         data_pool_.max_avail_bytes, least_bytes),
             "Make room in it or add OSDs.");
    }
    auto room_bytes = data_pool_.max_avail_bytes;
    if (data_pool_.quota_bytes != 0) room_bytes = std::min(room_bytes, check_quota_in_bytes());
    if (data_pool_.quota_objects != 0) check_quota_in_objects(thick_meanwhile);
    if (out_.refused()) return {};
    if (thick_meanwhile && room_bytes < source_.spec.size_bytes) {
      refuse("room_while_copying",
             fmt::format("pool '{}' has room for {} bytes; the copy may take {} until it is made thin again",
                         data_pool_name_, room_bytes, source_.spec.size_bytes),
             "Make room for the whole disk, or give the disk discard='unmap' and the source the feature fast-diff.");
      return {};
    }
    if (thick_meanwhile) {
      warn("thin",
           fmt::format("the target may take up to {} bytes during the copy and is made thin after it",
                       source_.spec.size_bytes),
           "Give the disk discard='unmap' and the source the feature fast-diff to avoid it.");
    }
    pass("room",
         fmt::format("pool '{}' has room for {} bytes, the swap needs {}", data_pool_name_, room_bytes, least_bytes));
    return {};
  }

  static std::uint64_t with_reserve(std::uint64_t bytes) { return bytes + std::max(bytes / 50, 64 * kMiB); }

  // Gives what is left of it. Larger objects than the source's may get holes, which count.
  std::uint64_t check_quota_in_bytes() {
    const auto order = out_.plan.target_spec.order;
    const auto needed =
        with_reserve(order > source_.spec.order ? std::min(source_usage_.objects << order, source_.spec.size_bytes)
                                                : source_usage_.bytes);
    const auto left = data_pool_.quota_bytes - std::min(data_pool_.quota_bytes, data_pool_.quota_used_bytes);
    if (left < needed) {
      refuse("quota_bytes",
             fmt::format("pool '{}' has {} bytes left of its quota of {}, the swap needs {}", data_pool_name_, left,
                         data_pool_.quota_bytes, needed),
             fmt::format("Raise it with 'ceph osd pool set-quota {} max_bytes'.", data_pool_name_));
    }
    return left;
  }

  void check_quota_in_objects(bool thick_meanwhile) {
    constexpr std::uint64_t kHeaderObjects = 4;  // header, id, object map, directory
    const auto order = out_.plan.target_spec.order;
    const auto most = (source_.spec.size_bytes >> order) + 1;
    const auto data = (source_usage_.objects << std::max(source_.spec.order, order)) >> order;
    const auto needed = (thick_meanwhile ? most : std::min(data, most)) + kHeaderObjects;
    const auto left = data_pool_.quota_objects - std::min(data_pool_.quota_objects, data_pool_.objects);
    if (left >= needed) return;
    refuse("quota_objects",
           fmt::format("pool '{}' has {} objects left of its quota of {}, the swap needs {}", data_pool_name_, left,
                       data_pool_.quota_objects, needed),
           fmt::format("Raise it with 'ceph osd pool set-quota {} max_objects'.", data_pool_name_));
  }

  Status check_open_jobs() {
    if (auto free = store_.check_free(domain_.uuid, disk_.target, *disk_.image, request_.target); !free) {
      return refuse_or_fail("open_jobs", free.error());
    }
    pass("open_jobs", "no open job has this disk or these images");
    JobRecord& plan = out_.plan;
    plan.domain_uuid = domain_.uuid;
    plan.domain_name = domain_.name;
    plan.source_watcher = plan.offline ? "" : source_.watchers.front();
    plan.source_size_bytes = source_.spec.size_bytes;
    plan.source_id = source_.id;
    plan.source_used_bytes = source_usage_.bytes;
    plan.source_unmaps = disk_.unmaps;
    return {};
  }

  Ports ports_;
  JobStore& store_;
  const SwapRequest& request_;
  const ValidateOptions& options_;
  Validation out_;
  Domain domain_;
  Disk disk_;
  std::unique_ptr<Cluster> source_cluster_;
  std::unique_ptr<Cluster> other_cluster_;
  Cluster* target_cluster_ = nullptr;
  Image source_;
  Usage source_usage_;
  std::string data_pool_name_;  // where the target's data goes
  Pool data_pool_;
};

}  // namespace

const char* grave_flag(const Pool& pool) {
  if (pool.full) return "full";
  if (pool.backfillfull) return "backfillfull";
  return pool.nearfull ? "nearfull" : nullptr;
}

bool Validation::refused() const {
  return std::any_of(checks.begin(), checks.end(),
                     [](const Check& check) { return check.outcome == Check::Outcome::refuse; });
}

Error Validation::refusal() const {
  for (const auto& check : checks) {
    if (check.outcome == Check::Outcome::refuse) return {ErrorCode::refused, check.found, check.advice};
  }
  return {ErrorCode::internal, "nothing was refused", "Report it."};
}

JobRecord plan_for(const SwapRequest& request) {
  JobRecord plan;
  plan.domain_name = request.domain;
  plan.disk = request.disk;
  plan.source = request.source.value_or(ImageName{});
  plan.target = request.target;
  plan.bandwidth_bytes_per_s = request.bandwidth_bytes_per_s;
  plan.source_after = request.source_after;
  plan.labels = request.labels;
  return plan;
}

Result<Validation> validate(Ports ports, JobStore& store, const SwapRequest& request, const ValidateOptions& options) {
  return Validator(ports, store, request, options).run();
}

}  // namespace poolshift
