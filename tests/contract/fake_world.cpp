// The fakes, as the unit and crash tests use them.
#include "fakes/fake_world.h"

#include "world.h"

namespace poolshift::contract {
namespace {

class FakeContractWorld final : public World {
 public:
  FakeContractWorld() : hypervisor_(fake_.hypervisor()), storage_(fake_.storage()), system_(fake_.system()) {
    fake_.pools[forbidden_pool()].allowed = false;
    fake_.secrets[secret_usage()] = key();
    fake_.guardians_look_again_ms = 2'000;
  }

  bool is_real() const override { return false; }
  Hypervisor& hypervisor() override { return *hypervisor_; }
  Storage& storage() override { return *storage_; }
  System& system() override { return *system_; }
  std::string folder() override { return "/contract"; }
  std::string passable_folder() override { return "/passable"; }
  std::string guardian() override { return "/guardian"; }
  std::string connect_uri() override { return "fake:///"; }

  ClusterAccess access() override { return fakes::FakeWorld::disk_on("vda", {}).shown.access; }
  ClusterAccess strict_access() override { return access(); }
  std::string key() override { return "key"; }
  std::string secret_usage() override { return "usage"; }
  std::string pool() override { return "volumes-hdd"; }
  std::string other_pool() override { return "volumes-ssd"; }
  std::string forbidden_pool() override { return "forbidden"; }

  std::string start_guest(const std::vector<GuestDisk>& disks, Start how) override {
    const auto name = unique("guest");
    std::vector<fakes::FakeDisk> described;
    for (const auto& disk : disks) {
      auto fake = fakes::FakeWorld::disk_on(disk.target, disk.image, disk.writes_per_s);
      fake.shown.unmaps = disk.unmaps;
      fake.shown.shareable = disk.shareable;
      described.push_back(std::move(fake));
    }
    auto& domain = fake_.add_domain(name, described);
    domain.persistent = how != Start::transient;
    if (how == Start::paused) domain.state = DomainState::paused;
    for (const auto& disk : disks) fake_.fill(domain, disk.target, disk.fill_bytes / fakes::kBlockBytes);
    return name;
  }

  void power_off(const std::string& guest) override { fake_.kill_qemu(*fake_.find(guest)); }
  void half_trash(const ImageName& name, const std::string& /*id*/) override {
    (void)connect()->move_to_trash(name);
    fake_.half_trashed.insert(name);
  }
  void half_rename(const ImageName& listed, const ImageName& other) override { fake_.half_renamed[other] = listed; }
  void half_remove_snapshot(const ImageName& name, const std::string& snapshot) override {
    (void)connect()->remove_snapshot(name, snapshot);
    fake_.image(name)->half_removed.insert(snapshot);
  }
  void stop_hypervisor() override { fake_.hypervisor_away_until_ms = fake_.now_ms + 1'000'000'000; }
  void start_hypervisor() override { fake_.hypervisor_away_until_ms = 0; }

 private:
  fakes::FakeWorld fake_;
  std::unique_ptr<Hypervisor> hypervisor_;
  std::unique_ptr<Storage> storage_;
  std::unique_ptr<System> system_;
};

}  // namespace

std::unique_ptr<World> make_world(std::string&) { return std::make_unique<FakeContractWorld>(); }

}  // namespace poolshift::contract
