// What the contract's cases need of the world around the ports: a cluster with two pools, and guests with
// disks in it.
//
// The cases are linked into two programs: with real_world.cpp they run on the adapters over the stack that
// the STACK_* variables of tests/stack/up name, with fake_world.cpp on the fakes that the unit tests use. So
// a fake that behaves as nothing real does is found here.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ports/hypervisor.h"
#include "ports/storage.h"
#include "ports/system.h"

namespace poolshift::contract {

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kGiB = 1024 * kMiB;

struct GuestDisk {
  std::string target;
  ImageName image;  // must exist
  bool unmaps = false;
  bool shareable = false;
  std::uint64_t fill_bytes = 0;    // written, from the start of the disk on, before start_guest() returns
  std::uint64_t writes_per_s = 0;  // random 4 KiB writes from then on
};

enum class Start { running, paused, transient };

class World {
 public:
  virtual ~World() = default;

  // Whether errors are worded for people and guests have a clock of their own.
  virtual bool is_real() const = 0;
  virtual Hypervisor& hypervisor() = 0;
  virtual Storage& storage() = 0;
  virtual System& system() = 0;
  // An existing, writable folder for the System's files, empty.
  virtual std::string folder() = 0;
  // The same, but other users may pass through it.
  virtual std::string passable_folder() = 0;
  // The program that start_guardian() is given, and the connection that it is told to use.
  virtual std::string guardian() = 0;
  virtual std::string connect_uri() = 0;

  // A user who may use both pools, the libvirt secret with the key included.
  virtual ClusterAccess access() = 0;
  // The same cluster, reached so that it refuses a wrong key at once.
  virtual ClusterAccess strict_access() = 0;
  virtual std::string key() = 0;
  virtual std::string secret_usage() = 0;
  virtual std::string pool() = 0;
  virtual std::string other_pool() = 0;
  // A pool that exists and that the user may not use.
  virtual std::string forbidden_pool() = 0;

  // Returns the guest's name, new for each call. Failing, it throws: then there is nothing to test.
  virtual std::string start_guest(const std::vector<GuestDisk>& disks, Start how = Start::running) = 0;
  // Those that a case has left behind.
  virtual void stop_guests() {}
  // Off, but still defined when it was persistent.
  virtual void power_off(const std::string& guest) = 0;
  // Moves the image to the trash and leaves what a client leaves that dies before it is done.
  virtual void half_trash(const ImageName& name, const std::string& id) = 0;
  // Gives the image both names, as a client leaves it that dies while it renames it; the pool's list has one.
  virtual void half_rename(const ImageName& listed, const ImageName& other) = 0;
  // Takes the snapshot out of sight, as a client leaves it that dies while it removes it.
  virtual void half_remove_snapshot(const ImageName& name, const std::string& snapshot) = 0;
  virtual void stop_hypervisor() = 0;
  virtual void start_hypervisor() = 0;
};

// The one world of this program; a guest that a case leaves behind is removed with it. Null, with `reason`,
// when it cannot be had.
std::unique_ptr<World> make_world(std::string& reason);

// What main() made.
World& world();

// --- for the cases
// -------------------------------------------------------------------------------------------------

// A name that no other image or file has.
std::string unique(const std::string& base);

// Connected as the world's user; fails the case when it cannot be.
std::unique_ptr<Cluster> connect();

// A new image of this size, with the features that `rbd create` gives by default.
ImageName new_image(Cluster& cluster, const std::string& pool, std::uint64_t size_bytes);

bool wait_until(const std::function<bool()>& done, int seconds = 60);

}  // namespace poolshift::contract
