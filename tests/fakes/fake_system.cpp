#include <fmt/core.h>

#include <algorithm>
#include <type_traits>

#include "fakes/fake_world.h"

namespace poolshift::fakes {
namespace {

Error not_found(const std::string& what) {
  return {ErrorCode::not_found, fmt::format("{} does not exist", what), "Check the name."};
}

class FakeLock : public FileLock {
 public:
  FakeLock(FakeWorld& world, std::string path) : world_(world), path_(std::move(path)) {}
  ~FakeLock() override { world_.unlock(path_); }
  FakeLock(const FakeLock&) = delete;
  FakeLock& operator=(const FakeLock&) = delete;

  const std::string& path() const { return path_; }

 private:
  FakeWorld& world_;
  std::string path_;
};

// The end of the pipe that the process has.
class FakeGuardianHandle : public Guardian {
 public:
  FakeGuardianHandle(FakeWorld& world, std::shared_ptr<FakeGuardian> guardian)
      : world_(world), guardian_(std::move(guardian)) {}
  ~FakeGuardianHandle() override { guardian_->owner_is_alive = false; }
  FakeGuardianHandle(const FakeGuardianHandle&) = delete;
  FakeGuardianHandle& operator=(const FakeGuardianHandle&) = delete;

  Status begin() override {
    return world_.call([&]() -> Status {
      if (!stands_by()) return Error{ErrorCode::failed, "the guardian is gone", "Look at its log."};
      guardian_->begun_ms = world_.now_ms;
      return {};
    });
  }

  bool stands_by() override { return lives() && !guardian_->has_stepped_in; }
  void stand_down() override {
    guardian_->is_told = true;
    if (!guardian_->acts) world_.end_guardian(guardian_);
  }

 private:
  bool lives() const {
    return std::find(world_.guardians.begin(), world_.guardians.end(), guardian_) != world_.guardians.end();
  }

  FakeWorld& world_;
  std::shared_ptr<FakeGuardian> guardian_;
};

class FakeSystem : public System {
 public:
  FakeSystem(FakeWorld& world, bool of_guardian) : world_(world), of_guardian_(of_guardian) {}

  std::int64_t monotonic_ms() override { return world_.now_ms; }
  std::int64_t wall_clock_ms() override { return 1'700'000'000'000 + world_.now_ms; }
  void sleep_ms(std::int64_t duration_ms) override {
    call([&] {
      world_.advance(duration_ms);
      return true;
    });
  }
  std::string random_id() override { return world_.next_id(); }

  Status make_folder(const std::string&) override { return {}; }
  Status make_passable_folder(const std::string& path) override {
    if (!world_.impassable.contains(path)) return {};
    return Error{ErrorCode::denied, fmt::format("'{}' cannot be passed through", path), "Run chmod."};
  }
  Status make_shared_folder(const std::string&) override { return {}; }

  Result<std::vector<std::string>> list_folder(const std::string& path) override {
    return call([&]() -> Result<std::vector<std::string>> {
      std::vector<std::string> names;
      const auto prefix = path + "/";
      for (const auto& [name, file] : world_.files) {
        if (name.starts_with(prefix)) names.push_back(name.substr(prefix.size()));
      }
      return names;
    });
  }

  Result<std::string> read_file(const std::string& path, std::uint64_t limit_bytes) override {
    return call([&]() -> Result<std::string> {
      const auto found = world_.files.find(path);
      if (found == world_.files.end()) return not_found(path);
      if (found->second.content.size() > limit_bytes) return Error{ErrorCode::failed, "the file is too long", ""};
      return found->second.content;
    });
  }

  // Nobody else writes here.
  Result<std::string> read_trusted_file(const std::string& path, std::uint64_t limit_bytes) override {
    auto content = read_file(path, limit_bytes);
    if (!content && content.error().code == ErrorCode::failed) return Error{ErrorCode::damaged, "too long", ""};
    return content;
  }

  Result<std::string> read_own_file(const std::string& path, std::uint64_t limit_bytes) override {
    const auto known = world_.facts.find(path);
    if (known != world_.facts.end() && known->second.owner != 0) {
      return Error{ErrorCode::denied, path + " belongs to another user", "be that user"};
    }
    return read_trusted_file(path, limit_bytes);
  }

  Result<std::string> read_end_of_file(const std::string& path, std::uint64_t limit_bytes) override {
    return call([&]() -> Result<std::string> {
      const auto found = world_.files.find(path);
      if (found == world_.files.end()) return not_found(path);
      const auto& content = found->second.content;
      return content.size() > limit_bytes ? content.substr(content.size() - limit_bytes) : content;
    });
  }

  Result<std::uint64_t> file_bytes(const std::string& path) override {
    return call([&]() -> Result<std::uint64_t> {
      const auto found = world_.files.find(path);
      if (found == world_.files.end()) return not_found(path);
      const auto& file = found->second;
      return file.content.size() + (file.qcow2 ? file.qcow2->blocks.size() * kBlockBytes : 0);
    });
  }

  Result<FileFacts> file_facts(const std::string& path) override {
    return call([&]() -> Result<FileFacts> {
      if (const auto known = world_.facts.find(path); known != world_.facts.end()) return known->second;
      if (world_.files.contains(path)) return FileFacts{FileFacts::Kind::regular, 0, 0, 0640, 0, ""};
      const auto inside = world_.files.lower_bound(path + "/");
      if (inside == world_.files.end() || !inside->first.starts_with(path + "/")) return not_found(path);
      return FileFacts{FileFacts::Kind::folder, 0, 0, 0755, 0, ""};
    });
  }

  Result<std::uint32_t> shared_group() override {
    if (world_.shared_group) return *world_.shared_group;
    return not_found("group poolshift");
  }

  Result<ProcessFacts> process(std::int64_t id) override {
    const auto found = world_.processes.find(id);
    if (found == world_.processes.end()) return not_found(fmt::format("process {}", id));
    return found->second;
  }

  Result<ProcessFacts> listener(const std::string& socket_path) override {
    const auto found = world_.listeners.find(socket_path);
    if (found == world_.listeners.end()) return not_found(socket_path);
    return process(found->second);
  }

  Result<std::string> program_version(const std::string& program) override {
    const auto found = world_.program_versions.find(program);
    if (found == world_.program_versions.end()) return not_found(program);
    return found->second;
  }

  Status create_file(const std::string& path, const std::string& content) override {
    return call(
        [&]() -> Status {
          if (world_.files.contains(path)) return Error{ErrorCode::exists, path + " exists", ""};
          if (!world_.torn_now()) world_.files[path] = {content, content, true};
          return {};
        },
        FakeWorld::Kind::writes_file);
  }

  Status append_file(const std::string& path, const std::string& content) override {
    return call(
        [&]() -> Status {
          const auto found = world_.files.find(path);
          if (found == world_.files.end()) return not_found(path);
          FakeFile& file = found->second;
          file.content += world_.torn_now() ? content.substr(0, content.size() / 2) : content;
          file.durable = file.content;
          file.is_durable = true;
          return {};
        },
        FakeWorld::Kind::writes_file);
  }

  Status truncate_file(const std::string& path, std::uint64_t size_bytes) override {
    return call(
        [&]() -> Status {
          const auto found = world_.files.find(path);
          if (found == world_.files.end()) return not_found(path);
          FakeFile& file = found->second;
          file.content.resize(size_bytes);
          file.durable = file.content;
          return {};
        },
        FakeWorld::Kind::writes_file);
  }

  Status reserve_space(const std::string& path, std::uint64_t) override {
    return call([&]() -> Status { return world_.files.contains(path) ? Status() : Status(not_found(path)); },
                FakeWorld::Kind::writes_file);
  }
  Status release_space(const std::string& path) override { return reserve_space(path, 0); }

  Status replace_file(const std::string& path, const std::string& content) override {
    return call(
        [&]() -> Status {
          world_.files[path].content = content;
          return {};
        },
        FakeWorld::Kind::writes_file);
  }

  Status replace_public_file(const std::string& path, const std::string& content) override {
    return replace_file(path, content);
  }

  Status move_file(const std::string& from, const std::string& to) override {
    return call(
        [&]() -> Status {
          if (!world_.files.contains(from)) return not_found(from);
          if (world_.files.contains(to)) return Error{ErrorCode::exists, to + " exists", ""};
          auto node = world_.files.extract(from);
          node.key() = to;
          world_.files.insert(std::move(node));
          return {};
        },
        FakeWorld::Kind::writes_file);
  }

  Status remove_file(const std::string& path) override {
    return call(
        [&]() -> Status {
          world_.files.erase(path);
          return {};
        },
        FakeWorld::Kind::writes_file);
  }

  Result<std::unique_ptr<FileLock>> lock_file(const std::string& path) override {
    return call([&]() -> Result<std::unique_ptr<FileLock>> {
      if (world_.of_others.contains(path)) return Error{ErrorCode::denied, path + " is somebody else's", ""};
      if (!world_.lock(path)) return Error{ErrorCode::busy, path + " is locked", ""};
      return std::unique_ptr<FileLock>(std::make_unique<FakeLock>(world_, path));
    });
  }

  Result<bool> is_locked(const std::string& path) override {
    return call([&]() -> Result<bool> {
      if (!world_.files.contains(path)) return not_found(path);
      return world_.locked.contains(path);
    });
  }

  Status create_overlay(const std::string& path, std::uint64_t size_bytes) override {
    return call(
        [&]() -> Status {
          for (const auto& domain : world_.domains) {
            for (const auto& disk : domain->disks) {
              if (domain->state != DomainState::inactive && disk.overlay && disk.overlay->path == path) {
                return Error{ErrorCode::failed, path + " is in use", "Look who has it open."};
              }
            }
          }
          FakeFile file{"qcow2", "", false};
          if (!world_.torn_now()) file.qcow2 = std::make_shared<FakeQcow2>(FakeQcow2{size_bytes, {}});
          world_.files[path] = std::move(file);
          return {};
        },
        FakeWorld::Kind::writes_file);
  }

  Result<std::unique_ptr<Guardian>> start_guardian(const std::string&, const std::string& order,
                                                   FileLock& shared) override {
    return call([&]() -> Result<std::unique_ptr<Guardian>> {
      if (world_.next_guardian_fails) {
        const Error error = *world_.next_guardian_fails;
        world_.next_guardian_fails.reset();
        return error;
      }
      auto parsed = parse_guard_order(order);
      if (!parsed) return Error{ErrorCode::failed, "the guardian ends: " + parsed.error().message, ""};
      auto guardian = std::make_shared<FakeGuardian>();
      guardian->order = std::move(*parsed);
      guardian->lock_path = dynamic_cast<FakeLock&>(shared).path();
      world_.guardians.push_back(guardian);
      return std::unique_ptr<Guardian>(std::make_unique<FakeGuardianHandle>(world_, guardian));
    });
  }

 private:
  template <class Body>
  std::invoke_result_t<Body&> call(Body body, FakeWorld::Kind kind = FakeWorld::Kind::plain) {
    return of_guardian_ ? world_.guardian_call(body) : world_.call(body, kind);
  }

  FakeWorld& world_;
  bool of_guardian_;
};

}  // namespace

std::unique_ptr<System> make_fake_system(FakeWorld& world, bool of_guardian) {
  return std::make_unique<FakeSystem>(world, of_guardian);
}

}  // namespace poolshift::fakes
