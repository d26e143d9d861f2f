// What the adapters have to cope with and no fake pretends to know.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <fstream>
#include <mutex>
#include <thread>

#include "checks.h"
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
  const auto used = cluster.used_bytes(name);
  if (!used) FAIL(used.error().message);
  return *used;
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
  REQUIRE_OK(cluster->sparsify_image(name));
  CHECK(used_by(*cluster, name) < 64 * kMiB);
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

}  // namespace poolshift::contract
