// The adapters, over the stack of tests/stack/up.
#include "real_world.h"

#include <fmt/core.h>
#include <stdlib.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <rados/librados.hpp>
#include <stdexcept>

#include "adapters/libvirt_hypervisor.h"
#include "adapters/posix_system.h"
#include "adapters/rbd_storage.h"

namespace poolshift::contract {

std::string variable(const char* name) {
  const char* value = getenv(name);
  return value != nullptr ? value : "";
}

std::string shell_quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

std::string run(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("cannot run: " + command);
  std::string output;
  char buffer[4096];
  while (const std::size_t length = fread(buffer, 1, sizeof buffer, pipe)) output.append(buffer, length);
  if (pclose(pipe) != 0) throw std::runtime_error("failed: " + command);
  while (!output.empty() && output.back() == '\n') output.pop_back();
  return output;
}

std::string ceph(const std::string& arguments) {
  return run(fmt::format("ceph -c {} {} 2>/dev/null", shell_quoted(variable("STACK_CEPH_CONF")), arguments));
}

std::string rbd(const std::string& arguments) {
  return run(fmt::format("rbd -c {} {} 2>/dev/null", shell_quoted(variable("STACK_CEPH_CONF")), arguments));
}

std::string virsh(const std::string& arguments) {
  return run(fmt::format("virsh -q -c {} {}", shell_quoted(variable("STACK_LIBVIRT_URI")), arguments));
}

namespace {

class RealWorld final : public World {
 public:
  RealWorld()
      : hypervisor_(make_libvirt_hypervisor(variable("STACK_LIBVIRT_URI"))),
        storage_(make_rbd_storage()),
        system_(make_posix_system()),
        dir_(variable("STACK_DIR")) {
    silence_libvirt_errors();
    folder_ = std::filesystem::temp_directory_path() / "poolshift-contract.XXXXXX";
    if (mkdtemp(folder_.data()) == nullptr) throw std::runtime_error("cannot make the folder " + folder_);
    passable_folder_ = folder_ + ".passable";
    run(fmt::format("grep -E '^(\\[global\\]|fsid|mon_host)' {} >{}", shell_quoted(variable("STACK_CEPH_CONF")),
                    shell_quoted(strict_access().conf_path)));
    key_ = run(fmt::format("ceph-authtool -p -n client.{} {}", variable("STACK_CEPH_USER"),
                           shell_quoted(variable("STACK_CEPH_KEYRING"))));
    // The stack's user has rights for the two pools that it names.
    ceph(fmt::format("osd pool create {} 1 1 replicated", forbidden_pool()));
    ceph(fmt::format("osd pool application enable {} rbd", forbidden_pool()));
  }

  ~RealWorld() override {
    stop_guests();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
    std::filesystem::remove_all(passable_folder_, ignored);
  }

  bool is_real() const override { return true; }
  Hypervisor& hypervisor() override { return *hypervisor_; }
  Storage& storage() override { return *storage_; }
  System& system() override { return *system_; }
  std::string folder() override { return folder_; }
  std::string passable_folder() override { return passable_folder_; }
  std::string guardian() override { return POOLSHIFT_GUARDIAN; }
  std::string connect_uri() override { return variable("STACK_LIBVIRT_URI"); }

  ClusterAccess access() override {
    ClusterAccess access;
    access.mon_hosts = {variable("STACK_MON_HOST")};
    access.user = variable("STACK_CEPH_USER");
    access.secret_uuid = variable("STACK_SECRET_UUID");
    return access;
  }
  // The file says which protocol a monitor speaks at which port. Without it librados tries both at a port
  // that is neither 3300 nor 6789, and the refusal of the one is lost in the waiting for the other.
  ClusterAccess strict_access() override {
    auto strict = access();
    strict.conf_path = folder_ + "/ceph.conf";
    return strict;
  }
  std::string key() override { return key_; }
  std::string secret_usage() override { return "client.cinder secret"; }
  std::string pool() override { return "volumes-hdd"; }
  std::string other_pool() override { return "volumes-ssd"; }
  std::string forbidden_pool() override { return "contract-forbidden"; }

  std::string start_guest(const std::vector<GuestDisk>& disks, Start how) override {
    const auto name = unique("contract");
    std::string arguments = "start " + name;
    bool filled = false;
    for (const auto& disk : disks) {
      arguments += fmt::format(" --disk {}={}", disk.target, to_string(disk.image));
      if (disk.unmaps) arguments += ",discard=unmap";
      if (disk.shareable) arguments += ",shareable";
      if (disk.fill_bytes == 0 && disk.writes_per_s == 0) continue;
      arguments += fmt::format(" --workload {}=mode={}", disk.target, disk.writes_per_s != 0 ? "random" : "idle");
      if (disk.writes_per_s != 0) arguments += fmt::format(",rate={}", disk.writes_per_s);
      if (disk.fill_bytes != 0) arguments += fmt::format(",fill={}", disk.fill_bytes);
      filled = filled || disk.fill_bytes != 0;
    }
    if (filled) arguments += " --wait-filled";
    if (how == Start::paused) arguments += " --paused";
    if (how == Start::transient) arguments += " --transient";
    guests_.push_back(name);
    stack("guest", arguments);
    return name;
  }

  void stop_guests() override {
    for (const auto& guest : guests_) stack("guest", fmt::format("stop {}", guest));
    guests_.clear();
  }
  void power_off(const std::string& guest) override { virsh("destroy " + guest); }
  // The list of a pool's images is what librbd changes last.
  void half_trash(const ImageName& name, const std::string& id) override {
    const auto rados = fmt::format("rados -c {} -p {}", shell_quoted(variable("STACK_CEPH_CONF")), name.pool);
    const std::array keys = {"name_" + name.image, "id_" + id};
    for (const auto& key : keys) {
      run(fmt::format("{} getomapval rbd_directory {} {}/{} 2>/dev/null", rados, key, folder_, key));
    }
    rbd("trash mv " + to_string(name));
    for (const auto& key : keys) {
      const auto file = fmt::format("{}/{}", folder_, key);
      run(fmt::format("{} setomapval rbd_directory {} <{}", rados, key, file));
      std::filesystem::remove(file);
    }
  }
  void half_rename(const ImageName& listed, const ImageName& other) override {
    const auto rados = fmt::format("rados -c {} -p {}", shell_quoted(variable("STACK_CEPH_CONF")), listed.pool);
    run(fmt::format("{} get rbd_id.{} - | {} put rbd_id.{} -", rados, listed.image, rados, other.image));
  }
  // What librbd asks of the OSDs first when it removes a snapshot.
  void half_remove_snapshot(const ImageName& name, const std::string& snapshot) override {
    const auto image_id = rbd(fmt::format("info {} | sed -n 's/.*[^_]id: //p'", to_string(name)));
    const auto id = std::stoull(rbd(fmt::format("snap ls {} | grep -w {}", to_string(name), snapshot)));
    librados::bufferlist input;
    librados::bufferlist output;
    for (unsigned byte = 0; byte < sizeof id; ++byte) input.append(static_cast<char>(id >> (8 * byte)));
    librados::Rados cluster;
    librados::IoCtx pool;
    int result = cluster.init("admin");
    if (result == 0) result = cluster.conf_read_file(variable("STACK_CEPH_CONF").c_str());
    if (result == 0) result = cluster.connect();
    if (result == 0) result = cluster.ioctx_create(name.pool.c_str(), pool);
    if (result == 0) result = pool.exec("rbd_header." + image_id, "rbd", "snapshot_trash_add", input, output);
    if (result < 0) throw std::runtime_error(fmt::format("cannot take {}@{} out of sight", to_string(name), snapshot));
  }
  void stop_hypervisor() override { stack("libvirtd", "stop"); }
  void start_hypervisor() override { stack("libvirtd", "start"); }

 private:
  void stack(const std::string& tool, const std::string& arguments) {
    run(fmt::format("{}/stack/{} {} {} </dev/null", POOLSHIFT_TESTS_DIR, tool, shell_quoted(dir_), arguments));
  }

  std::unique_ptr<Hypervisor> hypervisor_;
  std::unique_ptr<Storage> storage_;
  std::unique_ptr<System> system_;
  std::string dir_;
  std::string folder_;
  std::string passable_folder_;
  std::string key_;
  std::vector<std::string> guests_;
};

}  // namespace

std::unique_ptr<World> make_world(std::string& reason) {
  if (variable("STACK_LIBVIRT_URI").empty()) {
    reason = "no stack: run tests/stack/up DIR and source DIR/env";
    return nullptr;
  }
  return std::make_unique<RealWorld>();
}

}  // namespace poolshift::contract
