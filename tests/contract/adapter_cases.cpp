// What the adapters have to cope with and no fake pretends to know.
#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>

#include "checks.h"
#include "flow/guard.h"
#include "real_world.h"

namespace poolshift::contract {
namespace {

Disk disk_of(const std::string& guest) {
  const auto domain = world().hypervisor().find_domain(guest);
  if (!domain) FAIL(domain.error().message);
  const auto* disk = domain->disk("vda");
  if (disk == nullptr) FAIL("no vda");
  return *disk;
}

Image image_of(Cluster& cluster, const ImageName& name) {
  auto found = cluster.image(name);
  if (!found) FAIL(found.error().message);
  return std::move(*found);
}

std::uint64_t used_by(Cluster& cluster, const ImageName& name) {
  const auto used = cluster.usage(name);
  if (!used) FAIL(used.error().message);
  return used->bytes;
}

MirrorOptions to(const ImageName& target) {
  MirrorOptions options;
  options.target = target;
  options.access = world().access();
  return options;
}

std::string write_file(const std::string& name, const std::string& content) {
  const auto path = world().folder() + "/" + name;
  std::ofstream(path) << content;
  return path;
}

// --- a handover's parts

std::string sum_of(const std::string& image) { return rbd("export --no-progress " + image + " - | md5sum"); }

void write_random(const ImageName& name, const std::string& total) {
  rbd("bench --io-type write --io-size 65536 --io-threads 4 --io-pattern rand --io-total " + total + " " +
      to_string(name) + " >/dev/null");
}

ImageSpec plain_spec(std::uint64_t size_bytes, const std::string& data_pool = "") {
  ImageSpec spec;
  spec.size_bytes = size_bytes;
  spec.features = 61;
  spec.data_pool = data_pool;
  return spec;
}

// What an erasure-coded pool needs to hold RBD's data.
class DataPool {
 public:
  explicit DataPool(bool erasure_coded) : name_(unique("contract-data")) {
    ceph("osd erasure-code-profile set contract k=2 m=1 crush-failure-domain=osd --force");
    ceph("osd pool create " + name_ + (erasure_coded ? " 4 4 erasure contract" : " 4 4 replicated"));
    if (erasure_coded) ceph("osd pool set " + name_ + " allow_ec_overwrites true");
    ceph("osd pool application enable " + name_ + " rbd");
    // The stack's user has rights for the two pools that it names.
    caps_ = ceph("auth get client." + variable("STACK_CEPH_USER") +
                 " --format json | grep -o '\"osd\":\"[^\"]*\"' | cut -d'\"' -f4");
    set_caps(caps_ + ", profile rbd pool=" + name_);
  }
  DataPool(const DataPool&) = delete;
  DataPool& operator=(const DataPool&) = delete;
  ~DataPool() {
    set_caps(caps_);
    ceph("osd pool rm " + name_ + " " + name_ + " --yes-i-really-really-mean-it");
  }
  const std::string& name() const { return name_; }

 private:
  static void set_caps(const std::string& osd) {
    ceph("auth caps client." + variable("STACK_CEPH_USER") + " mon 'profile rbd' osd '" + osd + "'");
  }
  const std::string name_;
  std::string caps_;
};

bool go_on(std::uint64_t, std::uint64_t) { return true; }

// A clone gets all its data and loses its parent, in a handover's order.
ObjectCopies hydrate(Cluster& cluster, const ImageName& source, const ImageName& clone) {
  const auto objects = cluster.snapshot_objects(source, "one");
  REQUIRE_OK(objects);
  CHECK(std::is_sorted(objects->begin(), objects->end()));
  ObjectCopies copies;
  {
    const auto copier = cluster.object_copier(source, "one", clone);
    REQUIRE_OK(copier);
    const auto copied = (*copier)->copy(*objects, 6);
    REQUIRE_OK(copied);
    copies = *copied;
    CHECK(copies.copied + copies.present + copies.absent == objects->size());
    // A second run changes nothing.
    const auto again = (*copier)->copy(*objects, 6);
    REQUIRE_OK(again);
    CHECK(again->copied == 0);
  }
  REQUIRE_OK(cluster.rebuild_object_map(clone, go_on));
  REQUIRE_OK(cluster.flatten_image(clone, go_on));
  CHECK(image_of(cluster, clone).parent.empty());
  CHECK_ERROR(cluster.object_copier(source, "one", clone), ErrorCode::refused);
  return copies;
}

GuardOrder order_for(const std::string& guest, const std::string& overlay, const ImageName& target) {
  GuardOrder order;
  order.job_id = "contract";
  order.connect_uri = variable("STACK_LIBVIRT_URI");
  order.domain_uuid = world().hypervisor().find_domain(guest)->uuid;
  order.disk = "vda";
  order.target = target;
  order.overlay_path = overlay;
  order.max_pause_ms = 60'000;
  order.log_file = world().folder() + "/guardian.log";
  return order;
}

// By the lock that it holds; 0 when there is none.
pid_t guardian_with(const std::string& lock_path) {
  std::error_code ignored;
  for (const auto& process : std::filesystem::directory_iterator("/proc", ignored)) {
    const auto name = process.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos || std::stoi(name) == getpid()) continue;
    if (std::filesystem::read_symlink(process.path() / "fd/3", ignored) == lock_path) return std::stoi(name);
  }
  return 0;
}

DomainState state_of(const std::string& guest) { return world().hypervisor().find_domain(guest)->state; }

// A running guest whose disk is made ready for the switch, as far as a shallow copy that is ready.
struct Paused {
  std::string guest;
  std::string uuid;
  ImageName source;
  ImageName target;
  std::string overlay;
};

Paused prepare_guest(Cluster& cluster) {
  Paused paused;
  paused.source = new_image(cluster, world().pool(), 128 * kMiB);
  paused.target = {world().other_pool(), "", unique("contract")};
  paused.guest = world().start_guest(
      {{.target = "vda", .image = paused.source, .unmaps = true, .fill_bytes = 16 * kMiB, .writes_per_s = 50}});
  paused.uuid = world().hypervisor().find_domain(paused.guest)->uuid;
  paused.overlay = world().folder() + "/" + unique("overlay") + ".qcow2";
  REQUIRE_OK(world().system().create_overlay(paused.overlay, 128 * kMiB));
  return paused;
}

void pause_with_copy(Cluster& cluster, const Paused& paused) {
  auto& hypervisor = world().hypervisor();
  REQUIRE_OK(hypervisor.suspend(paused.uuid));
  REQUIRE_OK(cluster.create_snapshot(paused.source, "one"));
  REQUIRE_OK(cluster.clone_image(paused.source, "one", paused.target, plain_spec(128 * kMiB)));
  REQUIRE_OK(hypervisor.insert_overlay(paused.uuid, "vda", paused.overlay));
  auto options = to(paused.target);
  options.shallow = true;
  REQUIRE_OK(hypervisor.start_mirror(paused.uuid, "vda", options));
  REQUIRE(wait_until([&] { return disk_of(paused.guest).mirror && disk_of(paused.guest).mirror->ready; }));
}

bool runs_on_source(const Paused& paused) {
  const auto domain = world().hypervisor().find_domain(paused.guest);
  return domain && domain->state == DomainState::running && domain->disk("vda")->image == paused.source;
}

}  // namespace

TEST_CASE("a private secret is denied", "[hypervisor]") {
  const std::string uuid = "0d7f5a3c-1111-4222-8333-444455556666";
  virsh("secret-define " + write_file("secret.xml", "<secret ephemeral='yes' private='yes'><uuid>" + uuid +
                                                        "</uuid><usage type='ceph'><name>contract private</name>"
                                                        "</usage></secret>"));
  virsh("secret-set-value " + uuid + " --file " + write_file("secret.key", world().key()));
  ClusterAccess access;
  access.secret_uuid = uuid;
  CHECK_ERROR(world().hypervisor().secret_value(access), ErrorCode::denied);
  virsh("secret-undefine " + uuid);
}

TEST_CASE("other limits than the write limit are kept", "[hypervisor]") {
  auto cluster = connect();
  const auto image = new_image(*cluster, world().pool(), 64 * kMiB);
  const auto guest = world().start_guest({{.target = "vda", .image = image}}, Start::paused);
  const auto uuid = world().hypervisor().find_domain(guest)->uuid;
  virsh("blkdeviotune " + guest +
        " vda --live --total-iops-sec 1000 --total-iops-sec-max 2000 --total-iops-sec-max-length 5 "
        "--size-iops-sec 8192"
        " --read-bytes-sec 50000000 --read-bytes-sec-max 60000000 --read-bytes-sec-max-length 7 --group-name "
        "group-1");
  const auto before = virsh("blkdeviotune " + guest + " vda --live");
  REQUIRE_OK(world().hypervisor().set_write_limit(uuid, "vda", {.total_bytes_per_s = 0, .write_bytes_per_s = 1000000}));
  const auto limited = virsh("blkdeviotune " + guest + " vda --live");
  CHECK(limited != before);
  CHECK(world().hypervisor().write_limit(uuid, "vda")->write_bytes_per_s == 1000000);
  REQUIRE_OK(world().hypervisor().set_write_limit(uuid, "vda", {}));
  CHECK(virsh("blkdeviotune " + guest + " vda --live") == before);
  // The definition is not touched.
  CHECK(virsh("dumpxml --inactive " + guest).find("iotune") == std::string::npos);
}

TEST_CASE("jobs that are no copies are seen", "[hypervisor]") {
  auto cluster = connect();
  const auto image = new_image(*cluster, world().pool(), 256 * kMiB);
  const auto guest = world().start_guest({{.target = "vda", .image = image, .fill_bytes = 64 * kMiB}});
  const auto overlay = world().folder() + "/overlay.qcow2";
  run("qemu-img create -q -f qcow2 " + overlay + " 256M");
  virsh("snapshot-create " + guest + " --disk-only --no-metadata --atomic --reuse-external --xmlfile " +
        write_file("snapshot.xml",
                   "<domainsnapshot><disks><disk name='vda' snapshot='external'><driver type='qcow2'/><source file='" +
                       overlay + "'/></disk></disks></domainsnapshot>"));
  CHECK(disk_of(guest).has_overlay);
  CHECK_FALSE(disk_of(guest).other_block_job);
  // A pull is not in the XML.
  virsh("blockpull " + guest + " vda --bandwidth 1");
  const auto pulled = disk_of(guest);
  CHECK(pulled.other_block_job);
  CHECK_FALSE(pulled.mirror);
  const auto uuid = world().hypervisor().find_domain(guest)->uuid;
  const auto progress = world().hypervisor().mirror_progress(uuid, "vda");
  REQUIRE_OK(progress);
  CHECK_FALSE(progress->has_value());
  // A job that is not ours is not cancelled.
  REQUIRE_OK(world().hypervisor().cancel_mirror(uuid, "vda"));
  CHECK(disk_of(guest).other_block_job);
  virsh("blockjob " + guest + " vda --abort");
  CHECK_FALSE(disk_of(guest).other_block_job);
}

TEST_CASE("zeroing the target is seen in the highest write", "[hypervisor]") {
  auto cluster = connect();
  constexpr std::uint64_t kSize = 100 * kGiB;
  const auto source = new_image(*cluster, world().pool(), kSize);
  // Without an object map every object is asked to be zeroed.
  const ImageName target{world().other_pool(), "", unique("contract")};
  ImageSpec spec;
  spec.size_bytes = kSize;
  spec.features = 1;
  REQUIRE_OK(cluster->create_image(target, spec));
  const auto guest = world().start_guest({{.target = "vda", .image = source, .unmaps = true}});
  const auto uuid = world().hypervisor().find_domain(guest)->uuid;
  REQUIRE_OK(world().hypervisor().start_mirror(uuid, "vda", to(target)));
  std::vector<std::uint64_t> highest;
  std::uint64_t copied_while_zeroing = 0;
  CHECK(wait_until([&] {
    const auto progress = world().hypervisor().mirror_progress(uuid, "vda");
    if (!progress || !*progress) return false;
    highest.push_back((*progress)->highest_written_bytes);
    if (highest.back() < kSize) copied_while_zeroing = std::max(copied_while_zeroing, (*progress)->copied_bytes);
    return disk_of(guest).mirror->ready;
  }));
  CHECK(std::is_sorted(highest.begin(), highest.end()));
  CHECK(highest.back() == kSize);
  CHECK(std::any_of(highest.begin(), highest.end(), [](auto at) { return at > 0 && at < kSize; }));
  WARN(fmt::format("{} looks, {} bytes copied while zeroing", highest.size(), copied_while_zeroing));
}

TEST_CASE("threads share a hypervisor, also while it goes away", "[hypervisor]") {
  auto& hypervisor = world().hypervisor();
  auto cluster = connect();
  const auto image = new_image(*cluster, world().pool(), 64 * kMiB);
  const auto guest = world().start_guest({{.target = "vda", .image = image}}, Start::paused);
  std::atomic<bool> stop = false;
  std::atomic<int> wrong = 0;
  std::atomic<int> good = 0;
  std::mutex mutex;
  std::string message;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      while (!stop) {
        const auto found = hypervisor.find_domain(guest);
        if (found) ++good;
        if (found) {
          if (found->name != guest) ++wrong;
        } else if (found.error().code != ErrorCode::unreachable) {
          ++wrong;
          const std::lock_guard guard(mutex);
          message = found.error().message;
        }
      }
    });
  }
  CHECK(wait_until([&] { return good > 100; }));
  world().stop_hypervisor();
  world().start_hypervisor();
  const int before = good;
  CHECK(wait_until([&] { return good > before + 100; }));
  stop = true;
  for (auto& thread : threads) thread.join();
  INFO(message);
  CHECK(wrong == 0);
}

TEST_CASE("a configuration file of ours does not get into the domain", "[hypervisor]") {
  auto cluster = connect();
  const auto source = new_image(*cluster, world().pool(), 64 * kMiB);
  const auto target = new_image(*cluster, world().other_pool(), 64 * kMiB);
  const auto guest = world().start_guest({{.target = "vda", .image = source}}, Start::paused);
  const auto uuid = world().hypervisor().find_domain(guest)->uuid;
  auto options = to(target);
  options.access.conf_path = world().strict_access().conf_path;
  REQUIRE_OK(world().hypervisor().start_mirror(uuid, "vda", options));
  // A paused guest's copy gets ready too.
  REQUIRE(wait_until([&] { return disk_of(guest).mirror->ready; }));
  REQUIRE_OK(world().hypervisor().pivot_mirror(uuid, "vda"));
  REQUIRE(wait_until([&] { return !disk_of(guest).mirror; }));
  CHECK(disk_of(guest).image == target);
  CHECK(disk_of(guest).access.conf_path.empty());
}

TEST_CASE("connecting needs a place, a user and a file that exists", "[storage]") {
  auto access = world().strict_access();
  access.user = "nobody";
  CHECK_ERROR(world().storage().connect(access, world().key()), ErrorCode::denied);
  access = world().strict_access();
  access.conf_path += ".none";
  CHECK_ERROR(world().storage().connect(access, world().key()), ErrorCode::not_found);
  access = world().access();
  access.mon_hosts.clear();
  CHECK_ERROR(world().storage().connect(access, world().key()), ErrorCode::invalid);
  // A file with a keyring of its own.
  access = world().access();
  access.conf_path = variable("STACK_CEPH_CONF");
  const auto by_keyring = world().storage().connect(access, "");
  REQUIRE_OK(by_keyring);
  CHECK(*(*by_keyring)->fsid() == variable("STACK_FSID"));
}

// Takes as long as the adapter is willing to wait for a monitor: 30 s.
TEST_CASE("a cluster that does not answer is unreachable", "[storage][slow]") {
  auto access = world().access();
  access.mon_hosts = {"127.0.0.1:1"};
  CHECK_ERROR(world().storage().connect(access, world().key()), ErrorCode::unreachable);
}

TEST_CASE("librados neither writes to standard error nor makes it non-blocking", "[storage]") {
  int ends[2];
  REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
  const int saved = dup(STDERR_FILENO);
  dup2(ends[1], STDERR_FILENO);
  const auto refused = world().storage().connect(world().strict_access(), "AQAzBXRkAAAAABAAWmeWxhnTMpj9SAlnAkqqPA==");
  const auto connected = world().storage().connect(world().access(), world().key());
  const int flags = fcntl(STDERR_FILENO, F_GETFL);
  dup2(saved, STDERR_FILENO);
  close(saved);
  close(ends[1]);
  char buffer[1000];
  const auto length = read(ends[0], buffer, sizeof buffer);
  close(ends[0]);
  CHECK_FALSE(refused.ok());
  CHECK(connected.ok());
  CHECK((flags & O_NONBLOCK) == 0);
  CHECK(length == 0);
}

TEST_CASE("namespaces are told apart", "[storage]") {
  auto cluster = connect();
  const auto name = unique("ns");
  CHECK_ERROR(cluster->may_write(world().pool(), name), ErrorCode::not_found);
  rbd("namespace create " + world().pool() + "/" + name);
  REQUIRE_OK(cluster->may_write(world().pool(), name));
  const ImageName inside{world().pool(), name, "image"};
  ImageSpec spec;
  spec.size_bytes = kMiB;
  spec.features = 61;
  spec.metadata = {{"key", "value"}};
  REQUIRE_OK(cluster->create_image(inside, spec));
  CHECK(image_of(*cluster, inside).spec == spec);
  CHECK_ERROR(cluster->image({world().pool(), "", "image"}), ErrorCode::not_found);
}

TEST_CASE("a user who may only read is told so", "[storage]") {
  const auto user = unique("reader");
  const auto key = ceph("auth get-or-create-key client." + user + " mon 'profile rbd' osd 'profile rbd-read-only'");
  auto access = world().strict_access();
  access.user = user;
  const auto cluster = world().storage().connect(access, key);
  REQUIRE_OK(cluster);
  CHECK_ERROR((*cluster)->may_write(world().pool(), ""), ErrorCode::denied);
  auto owner = connect();
  const auto image = new_image(*owner, world().pool(), kMiB);
  REQUIRE_OK((*cluster)->image(image));
  REQUIRE_OK((*cluster)->pool(world().pool()));
  CHECK_ERROR((*cluster)->set_metadata(image, "key", "value"), ErrorCode::denied);
  CHECK_ERROR((*cluster)->create_image({world().pool(), "", unique("contract")}, {}), ErrorCode::denied);
  // Reads and writes, but may not call RBD's methods in the OSDs.
  const auto plain = unique("plain");
  access.user = plain;
  const auto plain_key = ceph("auth get-or-create-key client." + plain + " mon 'profile rbd' osd 'allow rw'");
  const auto without_x = world().storage().connect(access, plain_key);
  REQUIRE_OK(without_x);
  CHECK_ERROR((*without_x)->may_write(world().pool(), ""), ErrorCode::denied);
  ceph("auth rm client." + user);
  ceph("auth rm client." + plain);
}

TEST_CASE("relations of an image are described", "[storage]") {
  auto cluster = connect();
  const auto name = new_image(*cluster, world().pool(), 64 * kMiB);
  const ImageName child{world().other_pool(), "", unique("contract")};
  rbd("snap create " + to_string(name) + "@one");
  rbd("clone --rbd-default-clone-format 2 " + to_string(name) + "@one " + to_string(child));
  const auto group = unique("group");
  rbd("group create " + world().pool() + "/" + group);
  rbd("group image add " + world().pool() + "/" + group + " " + to_string(name));
  rbd("lock add " + to_string(name) + " a-lock");
  auto image = image_of(*cluster, name);
  CHECK(image.snapshots == std::vector<std::string>{"one"});
  CHECK(image.group == world().pool() + "/" + group);
  CHECK(image.lockers.size() == 1);
  CHECK(image.parent.empty());
  CHECK(image.watchers.empty());
  // Features that only tell a state are not part of how it was made.
  CHECK(image.spec.features == 61);
  CHECK(image_of(*cluster, child).parent == to_string(name) + "@one");
  rbd("rm " + to_string(child));
  rbd("group image rm " + world().pool() + "/" + group + " " + to_string(name));

  const auto trashed = new_image(*cluster, world().pool(), kMiB);
  rbd("trash mv " + to_string(trashed));
  CHECK_ERROR(cluster->image(trashed), ErrorCode::not_found);
  CHECK(cluster->image(trashed).error().message.find("trash") != std::string::npos);
}

TEST_CASE("an image goes to the trash under a guest and comes back", "[storage]") {
  auto cluster = connect();
  const auto name = new_image(*cluster, world().pool(), kGiB);
  const auto guest = world().start_guest({{.target = "vda", .image = name, .writes_per_s = 50}});
  const auto uuid = world().hypervisor().find_domain(guest)->uuid;
  const auto image = image_of(*cluster, name);
  rbd("trash mv " + to_string(name));
  const auto trashed = cluster->trash_of(name);
  REQUIRE_OK(trashed);
  REQUIRE(trashed->size() == 1);
  CHECK(trashed->front().id == image.id);
  CHECK(trashed->front().watchers == image.watchers);
  const auto writes_on = [&] {
    const auto written = [&] { return world().hypervisor().disk_counters(uuid, "vda")->written_bytes; };
    const auto before = written();
    return wait_until([&] { return written() > before; });
  };
  CHECK(writes_on());
  REQUIRE_OK(cluster->restore_from_trash(name, image.id));
  CHECK(image_of(*cluster, name).watchers == image.watchers);
  CHECK(writes_on());
}

TEST_CASE("an image under migration is described or says why not", "[storage]") {
  auto cluster = connect();
  const auto source = new_image(*cluster, world().pool(), 64 * kMiB);
  const ImageName target{world().other_pool(), "", unique("contract")};
  rbd("migration prepare " + to_string(source) + " " + to_string(target));
  CHECK(image_of(*cluster, target).migrating);
  CHECK_ERROR(cluster->image(source), ErrorCode::busy);
  rbd("migration abort --no-progress " + to_string(target));
  CHECK_FALSE(image_of(*cluster, source).migrating);
}

TEST_CASE("used bytes are exact, quick and count the parent", "[storage]") {
  auto cluster = connect();
  const auto big = new_image(*cluster, world().pool(), 500 * kGiB);
  CHECK(used_by(*cluster, big) == 0);
  rbd("bench --io-type write --io-size 4096 --io-threads 8 --io-total 4M --io-pattern seq " + to_string(big) +
      " >/dev/null");
  const auto start = world().system().monotonic_ms();
  CHECK(used_by(*cluster, big) == 4 * kMiB);
  const auto mapped_ms = world().system().monotonic_ms() - start;
  CHECK(mapped_ms < 2000);

  rbd("snap create " + to_string(big) + "@one");
  const ImageName child{world().other_pool(), "", unique("contract")};
  rbd("clone --rbd-default-clone-format 2 " + to_string(big) + "@one " + to_string(child));
  CHECK(used_by(*cluster, child) == 4 * kMiB);
  rbd("bench --io-type write --io-size 4096 --io-threads 1 --io-total 8K --io-pattern seq " + to_string(child) +
      " >/dev/null");
  // Two blocks that the parent has too.
  CHECK(used_by(*cluster, child) == 4 * kMiB);
  rbd("rm --no-progress " + to_string(child));

  const auto plain = ImageName{world().pool(), "", unique("contract")};
  ImageSpec spec;
  spec.size_bytes = 8 * kGiB;
  spec.features = 1;
  REQUIRE_OK(cluster->create_image(plain, spec));
  rbd("bench --io-type write --io-size 65536 --io-total 1M --io-pattern seq " + to_string(plain) + " >/dev/null");
  const auto plain_start = world().system().monotonic_ms();
  CHECK(used_by(*cluster, plain) == kMiB);
  WARN(fmt::format("500 GiB with an object map: {} ms; 8 GiB without: {} ms", mapped_ms,
                   world().system().monotonic_ms() - plain_start));
}

TEST_CASE("what an image uses is what a quota counts", "[storage]") {
  const DataPool pool(false);
  auto cluster = connect();
  auto spec = plain_spec(64 * kMiB, pool.name());
  spec.features = GENERATE(std::uint64_t{61}, std::uint64_t{1});
  const bool striped = GENERATE(false, true);
  CAPTURE(spec.features, striped);
  if (striped) {
    spec.stripe_unit = 64 * kKiB;
    spec.stripe_count = 2;
  }
  const ImageName name{world().other_pool(), "", unique("contract")};
  REQUIRE_OK(cluster->create_image(name, spec));
  // At the ends of two objects; striped, in the middle of them.
  run("qemu-io -f raw -c 'write 4092k 4k' -c 'write 20476k 4k' 'rbd:" + to_string(name) +
      ":conf=" + variable("STACK_CEPH_CONF") + "' >/dev/null");
  const auto usage = cluster->usage(name);
  REQUIRE_OK(usage);
  CHECK(usage->bytes == (striped ? 4 * kMiB : 8 * kMiB));
  CHECK(usage->objects == (striped ? 4 : 2));                            // of the two of a stripe either may be meant
  REQUIRE(wait_until([&] { return cluster->pool(pool.name()).ok(); }));  // it has statistics
  CHECK(cluster->pool(pool.name())->quota_used_bytes == 0);
  ceph("osd pool set-quota " + pool.name() + " max_bytes 1073741824");
  // librbd has a small object of its own there.
  CHECK(wait_until([&] { return cluster->pool(pool.name())->quota_used_bytes / kKiB == usage->bytes / kKiB; }));
  rbd("rm --no-progress " + to_string(name));
}

TEST_CASE("sparsify gives back zeroes under a guest", "[storage]") {
  auto cluster = connect();
  const ImageName name{world().pool(), "", unique("contract")};
  ImageSpec spec;
  spec.size_bytes = kGiB;
  spec.features = GENERATE(std::uint64_t{61}, std::uint64_t{1});
  CAPTURE(spec.features);
  REQUIRE_OK(cluster->create_image(name, spec));
  // 64 MiB of zeroes far behind what the guest writes.
  run("qemu-io -f raw -c 'write -P 0 512M 64M' 'rbd:" + to_string(name) + ":conf=" + variable("STACK_CEPH_CONF") +
      "' >/dev/null");
  CHECK(used_by(*cluster, name) == 64 * kMiB);
  const auto guest =
      world().start_guest({{.target = "vda", .image = name, .fill_bytes = 8 * kMiB, .writes_per_s = 50}});
  // An object that the guest writes to at that very moment may keep its zeroes.
  CHECK(wait_until([&] { return cluster->sparsify_image(name).ok() && used_by(*cluster, name) < 64 * kMiB; }));
  CHECK(used_by(*cluster, name) >= 8 * kMiB);
  CHECK(image_of(*cluster, name).watchers.size() == 1);
  const auto uuid = world().hypervisor().find_domain(guest)->uuid;
  const auto written = world().hypervisor().disk_counters(uuid, "vda")->written_bytes;
  CHECK(wait_until([&] { return world().hypervisor().disk_counters(uuid, "vda")->written_bytes > written; }));
}

TEST_CASE("quota, flags and erasure coding of a pool are described", "[storage]") {
  auto cluster = connect();
  const auto name = unique("contract-ec");
  ceph("osd erasure-code-profile set contract k=2 m=1 crush-failure-domain=osd --force");
  ceph("osd pool create " + name + " 1 1 erasure contract");
  CHECK(wait_until([&] { return cluster->pool(name).ok(); }));
  auto pool = *cluster->pool(name);
  CHECK(pool.erasure_coded);
  CHECK_FALSE(pool.allows_ec_overwrites);
  CHECK_FALSE(pool.has_application_rbd);
  ceph("osd pool set " + name + " allow_ec_overwrites true");
  ceph("osd pool application enable " + name + " rbd");
  ceph("osd pool set-quota " + name + " max_bytes 1073741824");
  ceph("osd pool set-quota " + name + " max_objects 1000");
  pool = *cluster->pool(name);
  CHECK(pool.allows_ec_overwrites);
  CHECK(pool.has_application_rbd);
  CHECK(pool.quota_bytes == kGiB);
  CHECK(pool.quota_objects == 1000);
  ceph("osd pool rm " + name + " " + name + " --yes-i-really-really-mean-it");
}

TEST_CASE("a full pool is described and neither holds up nor denies", "[storage]") {
  auto cluster = connect();
  const auto image = new_image(*cluster, world().other_pool(), 64 * kMiB);
  rbd("bench --io-type write --io-size 65536 --io-total 1M " + to_string(image) + " >/dev/null");
  ceph("osd pool set-quota " + world().other_pool() + " max_bytes 4096");
  const bool full = wait_until([&] { return cluster->pool(world().other_pool())->full; });
  CHECK(full);
  const auto start = world().system().monotonic_ms();
  const auto allowed = cluster->may_write(world().other_pool(), "");
  const auto looked = cluster->image(image);
  CHECK(world().system().monotonic_ms() - start < 5000);
  const auto checks = cluster->health();
  ceph("osd pool set-quota " + world().other_pool() + " max_bytes 0");
  REQUIRE_OK(allowed);
  REQUIRE_OK(looked);
  REQUIRE_OK(checks);
  CHECK(std::any_of(checks->begin(), checks->end(), [](const auto& check) {
    return check.name == "POOL_FULL" && !check.summary.empty() && !check.details.empty();
  }));
  CHECK(wait_until([&] { return !cluster->pool(world().other_pool())->full; }));
}

TEST_CASE("links, FIFOs and folders are not taken for files", "[system]") {
  auto& system = world().system();
  const auto folder = world().folder() + "/" + unique("case");
  REQUIRE_OK(system.make_folder(folder + "/a/b"));
  REQUIRE_OK(system.make_folder(folder + "/a/b/"));
  REQUIRE_OK(system.create_file(folder + "/file", "content"));
  REQUIRE(symlink((folder + "/file").c_str(), (folder + "/link").c_str()) == 0);
  REQUIRE(mkfifo((folder + "/fifo").c_str(), 0600) == 0);
  CHECK_ERROR(system.read_file(folder + "/link", 100), ErrorCode::denied);
  CHECK_ERROR(system.append_file(folder + "/link", "x"), ErrorCode::denied);
  CHECK_ERROR(system.truncate_file(folder + "/link", 0), ErrorCode::denied);
  CHECK_ERROR(system.lock_file(folder + "/link"), ErrorCode::denied);
  CHECK_ERROR(system.create_file(folder + "/link", "x"), ErrorCode::exists);
  CHECK_ERROR(system.read_file(folder + "/fifo", 100), ErrorCode::failed);
  CHECK_ERROR(system.read_file(folder + "/a", 100), ErrorCode::failed);
  // A link is replaced, not followed.
  REQUIRE_OK(system.replace_file(folder + "/link", "new"));
  CHECK(*system.read_file(folder + "/file", 100) == "content");
  CHECK(*system.read_file(folder + "/link", 100) == "new");

  CHECK_ERROR(system.list_folder(folder + "/none"), ErrorCode::not_found);
  CHECK_ERROR(system.create_file(folder + "/none/file", ""), ErrorCode::not_found);
  CHECK_ERROR(system.make_folder(folder + "/file"), ErrorCode::failed);
  CHECK_ERROR(system.make_folder(folder + "/file/below"), ErrorCode::failed);
  CHECK_ERROR(system.make_folder(""), ErrorCode::not_found);
  // What a crash left of a temporary file is no file.
  std::ofstream(folder + "/.file.0123456789ab.tmp") << "half";
  CHECK(*system.list_folder(folder) == std::vector<std::string>{"a", "fifo", "file", "link"});

  struct stat status {};
  REQUIRE(stat((folder + "/file").c_str(), &status) == 0);
  CHECK((status.st_mode & 0777 & ~0640U) == 0);
  const auto umask_before = ::umask(077);
  const auto published = system.replace_public_file(folder + "/file", "for all");
  ::umask(umask_before);
  REQUIRE_OK(published);
  REQUIRE(stat((folder + "/file").c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0644);
  REQUIRE(stat((folder + "/a").c_str(), &status) == 0);
  CHECK((status.st_mode & 0777 & ~0750U) == 0);
}

TEST_CASE("a lock on a file that was removed is none", "[system]") {
  auto& system = world().system();
  const auto path = world().folder() + "/" + unique("lock");
  const auto first = system.lock_file(path);
  REQUIRE_OK(first);
  REQUIRE_OK(system.remove_file(path));
  const auto second = system.lock_file(path);
  REQUIRE_OK(second);
  CHECK_ERROR(system.lock_file(path), ErrorCode::busy);
}

TEST_CASE("a clone is hydrated by the OSDs", "[storage]") {
  auto cluster = connect();
  const auto source = ImageName{world().pool(), "", unique("contract")};
  const auto clone = ImageName{world().other_pool(), "", unique("contract")};

  SECTION("between plain images") {
    REQUIRE_OK(cluster->create_image(source, plain_spec(256 * kMiB)));
    write_random(source, "2M");
    REQUIRE_OK(cluster->create_snapshot(source, "one"));
    const auto before = sum_of(to_string(source) + "@one");
    write_random(source, "1M");
    REQUIRE_OK(cluster->clone_image(source, "one", clone, plain_spec(256 * kMiB)));
    CHECK(hydrate(*cluster, source, clone).copied > 0);
    CHECK(sum_of(to_string(clone)) == before);
    // As thin as it was.
    CHECK(used_by(*cluster, clone) <= used_by(*cluster, source));
  }
  SECTION("the clone has been written to") {
    REQUIRE_OK(cluster->create_image(source, plain_spec(256 * kMiB)));
    write_random(source, "4M");
    REQUIRE_OK(cluster->create_snapshot(source, "one"));
    REQUIRE_OK(cluster->clone_image(source, "one", clone, plain_spec(256 * kMiB)));
    write_random(clone, "1M");
    run("qemu-io -f raw --discard=unmap -c 'discard 0 64M' 'rbd:" + to_string(clone) +
        ":conf=" + variable("STACK_CEPH_CONF") + "' >/dev/null");
    const auto before = sum_of(to_string(clone));
    const auto copies = hydrate(*cluster, source, clone);
    CHECK(copies.present > 0);
    CHECK(copies.copied > 0);
    CHECK(sum_of(to_string(clone)) == before);
  }
  SECTION("with data pools on both sides, one of them erasure-coded") {
    const DataPool replicated(false);
    const DataPool erasure_coded(true);
    auto both = connect();
    const int from = GENERATE(0, 1, 2);
    CAPTURE(from);
    const std::string from_pool = from == 0 ? "" : from == 1 ? replicated.name() : erasure_coded.name();
    const std::string to_pool = from == 2 ? replicated.name() : erasure_coded.name();
    REQUIRE_OK(both->create_image(source, plain_spec(256 * kMiB, from_pool)));
    write_random(source, "2M");
    REQUIRE_OK(both->create_snapshot(source, "one"));
    REQUIRE_OK(both->clone_image(source, "one", clone, plain_spec(256 * kMiB, to_pool)));
    CHECK(image_of(*both, clone).spec.data_pool == to_pool);
    CHECK(hydrate(*both, source, clone).copied > 0);
    CHECK(sum_of(to_string(clone)) == sum_of(to_string(source) + "@one"));
    REQUIRE_OK(both->remove_snapshot(source, "one"));
    rbd("rm --no-progress " + to_string(clone));
    rbd("rm --no-progress " + to_string(source));
  }
  SECTION("the source is itself a clone") {
    const auto origin = ImageName{world().pool(), "", unique("contract")};
    REQUIRE_OK(cluster->create_image(origin, plain_spec(256 * kMiB)));
    write_random(origin, "2M");
    REQUIRE_OK(cluster->create_snapshot(origin, "zero"));
    REQUIRE_OK(cluster->clone_image(origin, "zero", source, plain_spec(256 * kMiB)));
    write_random(source, "1M");
    REQUIRE_OK(cluster->create_snapshot(source, "one"));
    REQUIRE_OK(cluster->clone_image(source, "one", clone, plain_spec(256 * kMiB)));
    const auto own = cluster->snapshot_objects(source, "one");
    const auto inherited = cluster->snapshot_objects(origin, "zero");
    REQUIRE_OK(own);
    REQUIRE_OK(inherited);
    CHECK_FALSE(std::includes(own->begin(), own->end(), inherited->begin(), inherited->end()));
    CHECK_ERROR(cluster->remove_snapshot(source, "one"), ErrorCode::busy);
    CHECK(hydrate(*cluster, source, clone).copied == own->size());
    CHECK(sum_of(to_string(clone)) == sum_of(to_string(source) + "@one"));
    REQUIRE_OK(cluster->remove_snapshot(source, "one"));
    CHECK(image_of(*cluster, source).parent == to_string(origin) + "@zero");
  }
  SECTION("without object maps") {
    auto spec = plain_spec(64 * kMiB);
    spec.features = 1;
    REQUIRE_OK(cluster->create_image(source, spec));
    write_random(source, "1M");
    REQUIRE_OK(cluster->create_snapshot(source, "one"));
    REQUIRE_OK(cluster->clone_image(source, "one", clone, spec));
    CHECK_FALSE(*cluster->has_own_data(clone));
    CHECK(*cluster->has_own_data(source));
    CHECK(hydrate(*cluster, source, clone).copied > 0);
    CHECK(sum_of(to_string(clone)) == sum_of(to_string(source) + "@one"));
  }
  SECTION("in namespaces") {
    const auto name = unique("ns");
    rbd("namespace create " + world().pool() + "/" + name);
    rbd("namespace create " + world().other_pool() + "/" + name);
    const ImageName inside{world().pool(), name, "source"};
    const ImageName there{world().other_pool(), name, "clone"};
    REQUIRE_OK(cluster->create_image(inside, plain_spec(64 * kMiB)));
    write_random(inside, "1M");
    REQUIRE_OK(cluster->create_snapshot(inside, "one"));
    REQUIRE_OK(cluster->clone_image(inside, "one", there, plain_spec(64 * kMiB)));
    CHECK(hydrate(*cluster, inside, there).copied > 0);
    CHECK(sum_of(to_string(there)) == sum_of(to_string(inside) + "@one"));
  }
}

TEST_CASE("a flatten misses nothing, whatever the object map says", "[storage]") {
  auto cluster = connect();
  const auto source = new_image(*cluster, world().pool(), 64 * kMiB);
  const auto clone = ImageName{world().other_pool(), "", unique("contract")};
  const auto spec = image_of(*cluster, source).spec;
  write_random(source, "2M");
  REQUIRE_OK(cluster->create_snapshot(source, "one"));
  REQUIRE_OK(cluster->clone_image(source, "one", clone, spec));
  const auto objects = cluster->snapshot_objects(source, "one");
  REQUIRE_OK(objects);
  REQUIRE(objects->size() > 2);
  const auto before = sum_of(to_string(source) + "@one");

  SECTION("an object that is not there") {
    // A client that copies it up tells the map first, and died then.
    const auto number = objects->at(1);
    const auto id = image_of(*cluster, clone).id;
    run(fmt::format("qemu-io -f raw -c 'write {}M 4k' 'rbd:{}:conf={}' >/dev/null", number * 4, to_string(clone),
                    variable("STACK_CEPH_CONF")));
    run(fmt::format("rados -c {} -p {} rm rbd_data.{}.{:016x}", variable("STACK_CEPH_CONF"), clone.pool, id, number));
    REQUIRE(sum_of(to_string(clone)) == before);
    REQUIRE_OK(cluster->drop_object_map(clone));
    REQUIRE_OK(cluster->drop_object_map(clone));
    CHECK((image_of(*cluster, clone).spec.features & (8U | 16U)) == 0);
    REQUIRE_OK(cluster->flatten_image(clone, go_on));
    REQUIRE_OK(cluster->add_object_map(clone, spec.features));
    REQUIRE_OK(cluster->add_object_map(clone, spec.features));
    REQUIRE_OK(cluster->rebuild_object_map(clone, go_on));
  }
  SECTION("objects that it does not name") {
    {
      const auto copier = cluster->object_copier(source, "one", clone);
      REQUIRE_OK(copier);
      REQUIRE_OK((*copier)->copy(*objects, 6));
    }
    REQUIRE_OK(cluster->flatten_image(clone, go_on));
  }
  CHECK(image_of(*cluster, clone).parent.empty());
  CHECK(image_of(*cluster, clone).spec.features == spec.features);
  CHECK(sum_of(to_string(clone)) == before);
  CHECK(rbd("info " + to_string(clone)).find("invalid") == std::string::npos);
  CHECK(rbd("object-map check --no-progress " + to_string(clone) + " 2>&1").empty());
}

TEST_CASE("objects are copied neither between other layouts nor from another image", "[storage]") {
  auto cluster = connect();
  const auto source = new_image(*cluster, world().pool(), 64 * kMiB);
  const auto other = new_image(*cluster, world().pool(), 64 * kMiB);
  REQUIRE_OK(cluster->create_snapshot(source, "one"));
  REQUIRE_OK(cluster->create_snapshot(other, "one"));
  const ImageName clone{world().other_pool(), "", unique("contract")};
  auto spec = plain_spec(64 * kMiB);
  spec.order = 20;
  REQUIRE_OK(cluster->clone_image(source, "one", clone, spec));
  CHECK_ERROR(cluster->object_copier(source, "one", clone), ErrorCode::unsupported);
  CHECK_ERROR(cluster->object_copier(other, "one", clone), ErrorCode::refused);
  CHECK_ERROR(cluster->object_copier(source, "two", clone), ErrorCode::not_found);
  REQUIRE_OK(cluster->remove_untouched_clone(clone));
  spec = plain_spec(64 * kMiB, "contract-none");
  CHECK_ERROR(cluster->clone_image(source, "one", clone, spec), ErrorCode::not_found);
}

TEST_CASE("a full pool ends the copying of objects at once", "[storage]") {
  auto cluster = connect();
  const auto source = new_image(*cluster, world().pool(), 256 * kMiB);
  write_random(source, "2M");
  REQUIRE_OK(cluster->create_snapshot(source, "one"));
  const ImageName clone{world().other_pool(), "", unique("contract")};
  REQUIRE_OK(cluster->clone_image(source, "one", clone, plain_spec(256 * kMiB)));
  const auto objects = cluster->snapshot_objects(source, "one");
  const auto copier = cluster->object_copier(source, "one", clone);
  REQUIRE_OK(objects);
  REQUIRE_OK(copier);
  ceph("osd pool set-quota " + world().other_pool() + " max_objects 1");
  const bool full = wait_until([&] { return cluster->pool(world().other_pool())->full; });
  const auto start = world().system().monotonic_ms();
  const auto copied = (*copier)->copy(*objects, 6);
  const auto took_ms = world().system().monotonic_ms() - start;
  ceph("osd pool set-quota " + world().other_pool() + " max_objects 0");
  CHECK(full);
  CHECK_ERROR(copied, ErrorCode::failed);
  CHECK(took_ms < 5000);
  REQUIRE(wait_until([&] { return !cluster->pool(world().other_pool())->full; }));
  hydrate(*cluster, source, clone);
  CHECK(sum_of(to_string(clone)) == sum_of(to_string(source) + "@one"));
}

TEST_CASE("a guest is switched to a clone, and its flatten can be left alone", "[hypervisor]") {
  auto cluster = connect();
  auto& hypervisor = world().hypervisor();
  const auto paused = prepare_guest(*cluster);
  const auto source_watchers = image_of(*cluster, paused.source).watchers;
  const auto start = world().system().monotonic_ms();
  pause_with_copy(*cluster, paused);
  CHECK(image_of(*cluster, paused.source).watchers == source_watchers);
  CHECK_FALSE(*cluster->has_own_data(paused.target));
  CHECK_ERROR(hypervisor.commit_overlay(paused.uuid, "vda"), ErrorCode::busy);
  REQUIRE_OK(hypervisor.pivot_mirror(paused.uuid, "vda"));
  REQUIRE(wait_until([&] { return !disk_of(paused.guest).mirror && disk_of(paused.guest).image == paused.target; }));
  REQUIRE_OK(hypervisor.resume(paused.uuid));
  WARN(fmt::format("paused for {} ms", world().system().monotonic_ms() - start));

  const auto domain = hypervisor.find_domain(paused.guest);
  REQUIRE_OK(domain);
  CHECK(domain->persistent_disks.at(0).image == paused.target);
  CHECK_FALSE(domain->disk("vda")->has_overlay);
  CHECK(image_of(*cluster, paused.source).watchers.empty());
  const auto target_watchers = image_of(*cluster, paused.target).watchers;
  CHECK(target_watchers.size() == 1);
  CHECK(target_watchers != source_watchers);
  CHECK_ERROR(cluster->remove_untouched_clone(paused.target), ErrorCode::busy);
  CHECK(wait_until([&] { return *cluster->has_own_data(paused.target); }));

  // QEMU goes on with it.
  CHECK_ERROR(cluster->flatten_image(paused.target, [](auto, auto) { return false; }), ErrorCode::left);
  CHECK(wait_until([&] { return image_of(*cluster, paused.target).parent.empty(); }));
  REQUIRE_OK(cluster->flatten_image(paused.target, go_on));
  REQUIRE_OK(cluster->remove_snapshot(paused.source, "one"));
  REQUIRE_OK(cluster->remove_snapshot(paused.source, "one"));
  CHECK(image_of(*cluster, paused.target).watchers == target_watchers);
}

TEST_CASE("what the guest wrote to an overlay comes down, whoever has the source", "[hypervisor]") {
  auto cluster = connect();
  auto& hypervisor = world().hypervisor();
  const auto paused = prepare_guest(*cluster);
  const auto watchers = image_of(*cluster, paused.source).watchers;
  REQUIRE_OK(hypervisor.insert_overlay(paused.uuid, "vda", paused.overlay));
  const auto empty_bytes = *world().system().file_bytes(paused.overlay);
  CHECK(wait_until([&] { return *world().system().file_bytes(paused.overlay) > empty_bytes + kMiB / 4; }));
  CHECK(disk_of(paused.guest).file_path == paused.overlay);
  bool seen = false;
  CHECK(wait_until([&] {
    const auto disk = disk_of(paused.guest);
    seen = seen || disk.commits;
    CHECK_FALSE(disk.other_block_job);
    CHECK_FALSE(disk.mirror);
    if (disk.image == paused.source) return true;
    CHECK(hypervisor.commit_overlay(paused.uuid, "vda").ok());
    return false;
  }));
  CHECK(seen);
  REQUIRE_OK(hypervisor.commit_overlay(paused.uuid, "vda"));
  CHECK(image_of(*cluster, paused.source).watchers == watchers);
  CHECK(state_of(paused.guest) == DomainState::running);
  CHECK(hypervisor.find_domain(paused.guest)->persistent_disks.at(0).image == paused.source);
}

TEST_CASE("an inactive domain is redefined as it was", "[hypervisor]") {
  auto cluster = connect();
  auto& hypervisor = world().hypervisor();
  const auto paused = prepare_guest(*cluster);
  // libvirt remembers where <auth> stood in the source that the overlay replaced; it may stand in <source> afterwards.
  const auto definition = [&] {
    return virsh("dumpxml --inactive --security-info " + paused.guest + " | sed 's/^ *//' | sort");
  };
  const auto before = definition();
  REQUIRE_OK(hypervisor.insert_overlay(paused.uuid, "vda", paused.overlay));
  world().power_off(paused.guest);
  // The definition names the overlay, which we remove: at the next start there would be no such file.
  CHECK(hypervisor.find_domain(paused.guest)->persistent_disks.at(0).file_path == paused.overlay);
  CHECK_ERROR(hypervisor.redefine_disk(paused.uuid, "vdz", paused.source, world().access()), ErrorCode::not_found);
  REQUIRE_OK(hypervisor.redefine_disk(paused.uuid, "vda", paused.source, world().access()));
  CHECK(definition() == before);
  REQUIRE_OK(hypervisor.redefine_disk(paused.uuid, "vda", paused.target, world().access()));
  CHECK(hypervisor.find_domain(paused.guest)->disks.at(0).image == paused.target);
  CHECK_ERROR(hypervisor.resume(paused.uuid), ErrorCode::failed);
}

TEST_CASE("a domain with a managed save is told from one without", "[hypervisor]") {
  auto cluster = connect();
  auto& hypervisor = world().hypervisor();
  const auto guest = prepare_guest(*cluster).guest;
  CHECK_FALSE(hypervisor.find_domain(guest)->has_saved_state);
  virsh("managedsave " + guest);
  const auto saved = hypervisor.find_domain(guest);
  REQUIRE_OK(saved);
  CHECK(saved->state == DomainState::inactive);
  CHECK(saved->has_saved_state);
  virsh("managedsave-remove " + guest);
  CHECK_FALSE(hypervisor.find_domain(guest)->has_saved_state);
}

TEST_CASE("the guardian brings a guest back", "[guardian]") {
  auto cluster = connect();
  auto& system = world().system();
  const auto paused = prepare_guest(*cluster);
  const auto lock_path = world().folder() + "/" + unique("lock");
  auto lock = system.lock_file(lock_path);
  REQUIRE_OK(lock);
  auto order = order_for(paused.guest, paused.overlay, paused.target);

  SECTION("when its caller dies, from any step of the pause") {
    const bool with_overlay = GENERATE(false, true);
    CAPTURE(with_overlay);
    auto guardian = system.start_guardian(POOLSHIFT_GUARDIAN, to_text(order), **lock);
    REQUIRE_OK(guardian);
    REQUIRE_OK((*guardian)->begin());
    if (with_overlay) {
      pause_with_copy(*cluster, paused);
    } else {
      REQUIRE_OK(world().hypervisor().suspend(paused.uuid));
    }
    CHECK((*guardian)->stands_by());
    guardian->reset();
    CHECK(wait_until([&] { return runs_on_source(paused); }, 5));
    // It keeps the lock until it has ended.
    lock->reset();
    CHECK_ERROR(system.lock_file(lock_path), ErrorCode::busy);
    CHECK(wait_until([&] { return system.lock_file(lock_path).ok(); }, 10));
    CHECK(world().hypervisor().find_domain(paused.guest)->persistent_disks.at(0).image == paused.source);
    if (with_overlay) REQUIRE_OK(cluster->remove_untouched_clone(paused.target));
  }
  SECTION("when the pause gets too long") {
    order.max_pause_ms = 1'000;
    auto guardian = system.start_guardian(POOLSHIFT_GUARDIAN, to_text(order), **lock);
    REQUIRE_OK(guardian);
    system.sleep_ms(1'500);
    // On a busy machine the steps of the pause may take longer than the guardian waits: its clock begins after them.
    pause_with_copy(*cluster, paused);
    CHECK((*guardian)->stands_by());
    REQUIRE_OK((*guardian)->begin());
    CHECK(wait_until([&] { return runs_on_source(paused); }, 10));
    CHECK_FALSE((*guardian)->stands_by());
    (*guardian)->stand_down();
    lock->reset();
    CHECK(wait_until([&] { return system.lock_file(lock_path).ok(); }, 5));
  }
  SECTION("when it is told to end") {
    const int signal_number = GENERATE(SIGTERM, SIGHUP, SIGINT);
    CAPTURE(signal_number);
    auto guardian = system.start_guardian(POOLSHIFT_GUARDIAN, to_text(order), **lock);
    REQUIRE_OK(guardian);
    REQUIRE_OK((*guardian)->begin());
    REQUIRE_OK(world().hypervisor().suspend(paused.uuid));
    const auto pid = guardian_with(lock_path);
    REQUIRE(pid != 0);
    REQUIRE(kill(pid, signal_number) == 0);
    CHECK(wait_until([&] { return runs_on_source(paused); }, 5));
    CHECK_FALSE((*guardian)->stands_by());
    CHECK(wait_until([&] { return guardian_with(lock_path) == 0; }, 10));
    CHECK_ERROR((*guardian)->begin(), ErrorCode::failed);
  }
  SECTION("as soon as libvirtd is back") {
    auto guardian = system.start_guardian(POOLSHIFT_GUARDIAN, to_text(order), **lock);
    REQUIRE_OK(guardian);
    REQUIRE_OK((*guardian)->begin());
    pause_with_copy(*cluster, paused);
    world().stop_hypervisor();
    guardian->reset();
    system.sleep_ms(1'500);
    world().start_hypervisor();
    CHECK(wait_until([&] { return runs_on_source(paused); }, 20));
    CHECK(wait_until([&] { return guardian_with(lock_path) == 0; }, 10));
  }
}

TEST_CASE("the guardian does nothing when there is nothing to do", "[guardian]") {
  auto cluster = connect();
  auto& system = world().system();
  const auto image = new_image(*cluster, world().pool(), 64 * kMiB);
  const auto guest = world().start_guest({{.target = "vda", .image = image}}, Start::paused);
  const auto lock_path = world().folder() + "/" + unique("lock");
  auto lock = system.lock_file(lock_path);
  REQUIRE_OK(lock);
  auto order = order_for(guest, "/nonexistent/overlay", image);

  SECTION("told that the guest runs") {
    const int not_to_inherit = open("/dev/zero", O_RDONLY);
    const auto start = system.monotonic_ms();
    auto guardian = system.start_guardian(POOLSHIFT_GUARDIAN, to_text(order), **lock);
    REQUIRE_OK(guardian);
    WARN(fmt::format("ready in {} ms", system.monotonic_ms() - start));
    const auto pid = guardian_with(lock_path);
    REQUIRE(pid != 0);
    CHECK(getsid(pid) != getsid(0));
    for (const auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", pid))) {
      std::error_code ignored;
      CHECK(std::filesystem::read_symlink(entry.path(), ignored) != "/dev/zero");
    }
    close(not_to_inherit);
    REQUIRE_OK((*guardian)->begin());
    (*guardian)->stand_down();
    CHECK(guardian_with(lock_path) == 0);
    CHECK_FALSE((*guardian)->stands_by());
    CHECK(state_of(guest) == DomainState::paused);
    // No zombie is left to us.
    CHECK(run(fmt::format("ps --no-headers --ppid {} -o comm | grep -c poolshift-guard || true", getpid())) == "0");
  }
  SECTION("left before the pause began") {
    auto guardian = system.start_guardian(POOLSHIFT_GUARDIAN, to_text(order), **lock);
    REQUIRE_OK(guardian);
    guardian->reset();
    CHECK(wait_until([&] { return guardian_with(lock_path) == 0; }, 5));
    CHECK(state_of(guest) == DomainState::paused);
  }
  SECTION("for a guest that was paused before") {
    order.resume = false;
    auto guardian = system.start_guardian(POOLSHIFT_GUARDIAN, to_text(order), **lock);
    REQUIRE_OK(guardian);
    REQUIRE_OK((*guardian)->begin());
    guardian->reset();
    CHECK(wait_until([&] { return guardian_with(lock_path) == 0; }, 10));
    CHECK(state_of(guest) == DomainState::paused);
  }
  SECTION("for a guest that has been powered off") {
    auto guardian = system.start_guardian(POOLSHIFT_GUARDIAN, to_text(order), **lock);
    REQUIRE_OK(guardian);
    REQUIRE_OK((*guardian)->begin());
    world().power_off(guest);
    guardian->reset();
    CHECK(wait_until([&] { return guardian_with(lock_path) == 0; }, 10));
    CHECK(state_of(guest) == DomainState::inactive);
  }
  SECTION("that it cannot do") {
    CHECK_ERROR(system.start_guardian("/nonexistent/guardian", to_text(order), **lock), ErrorCode::not_found);
    CHECK_ERROR(system.start_guardian("/bin/true", to_text(order), **lock), ErrorCode::failed);
    CHECK_ERROR(system.start_guardian(POOLSHIFT_GUARDIAN, "{}", **lock), ErrorCode::failed);
    order.domain_uuid = "00000000-0000-0000-0000-00000000dead";
    const auto refused = system.start_guardian(POOLSHIFT_GUARDIAN, to_text(order), **lock);
    CHECK_ERROR(refused, ErrorCode::failed);
    if (!refused) CHECK(refused.error().message.find("Cannot find domain") != std::string::npos);
    CHECK(wait_until([&] { return guardian_with(lock_path) == 0; }, 5));
  }
}

TEST_CASE("an overlay can be read by QEMU's user where it can be reached", "[system]") {
  auto& system = world().system();
  const auto base = "/tmp/" + unique("poolshift-contract");
  const auto folder = base + "/a/overlays";
  const auto before = umask(077);
  const auto made = system.make_passable_folder(folder);
  umask(before);
  REQUIRE_OK(made);
  REQUIRE_OK(system.make_passable_folder(folder));
  const auto path = folder + "/x.qcow2";
  std::ofstream(path) << "something else";
  REQUIRE_OK(system.create_overlay(path, kGiB + 512));
  struct stat status {};
  REQUIRE(stat(path.c_str(), &status) == 0);
  CHECK((status.st_mode & 07777) == 0600);
  CHECK(*system.file_bytes(path) == static_cast<std::uint64_t>(status.st_size));
  const auto info = run("qemu-img info --output=json " + path);
  CHECK(info.find(fmt::format("\"virtual-size\": {}", kGiB + 512)) != std::string::npos);
  CHECK(info.find("backing") == std::string::npos);

  // As libvirt labels it.
  constexpr uid_t kNobody = 65534;
  const std::string as_nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups ";
  REQUIRE(chown(path.c_str(), kNobody, kNobody) == 0);
  CHECK_NOTHROW(run(as_nobody + "qemu-img info " + path + " >/dev/null"));
  CHECK_THROWS(run(as_nobody + "ls " + folder + " 2>/dev/null"));

  REQUIRE(chmod(base.c_str(), 0700) == 0);
  CHECK_ERROR(system.make_passable_folder(folder), ErrorCode::denied);
  CHECK_THROWS(run(as_nobody + "qemu-img info " + path + " >/dev/null 2>&1"));
  CHECK_ERROR(system.create_overlay(folder + "/none/x.qcow2", kGiB), ErrorCode::not_found);
  CHECK_ERROR(system.file_bytes(folder), ErrorCode::failed);
  CHECK_ERROR(system.file_bytes(folder + "/none"), ErrorCode::not_found);
  std::filesystem::remove_all(base);
}

}  // namespace poolshift::contract
