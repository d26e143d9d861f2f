// What PoolShift needs of the operating system: time, identity, and files of which it is known what survives a crash.
// The real one is adapters/posix_system.cpp; the fake one in tests/fakes forgets what was not made durable.
//
// Errors: `not_found`, `exists`, `busy` (locked by another process), `denied`, `failed`.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"

namespace poolshift {

// An exclusive lock on a file (flock), held until destroyed; the kernel drops it when the process dies.
class FileLock {
 public:
  virtual ~FileLock() = default;
};

// A process of its own that lets a guest run again when this one does not (flow/guard.h). Destroyed before it was told
// to stand down, it steps in, as if this process had died.
class Guardian {
 public:
  virtual ~Guardian() = default;

  // From now on the guest may be suspended for as long as the order says.
  virtual Status begin() = 0;
  // False: it has stepped in, or is gone. What was under way is no longer ours to go on with.
  virtual bool stands_by() = 0;
  // The guest runs: it ends without doing anything.
  virtual void stand_down() = 0;
};

// What stat(2) says of a file or folder.
struct FileFacts {
  enum class Kind { regular, folder, other };
  Kind kind = Kind::regular;
  std::uint32_t owner = 0;           // user id
  std::uint32_t group = 0;           // group id
  std::uint32_t mode = 0;            // the permission bits
  std::int64_t changed_wall_ms = 0;  // of the name itself, also of a link: put there, or changed in any way
  std::string selinux_label;         // empty: it has none
};

struct ProcessFacts {
  std::int64_t id = 0;
  std::string name;  // of the program, as ps(1) shows it: at most 15 characters
  std::int64_t started_wall_ms = 0;
};

class System {
 public:
  virtual ~System() = default;

  virtual std::int64_t monotonic_ms() = 0;
  virtual std::int64_t wall_clock_ms() = 0;  // since the epoch
  virtual void sleep_ms(std::int64_t duration_ms) = 0;
  virtual std::string random_id() = 0;  // 12 lower-case hexadecimal digits

  virtual Status make_folder(const std::string& path) = 0;  // with parents; ok when it is there
  // The same, and other users may pass through it to files whose names they know. `denied` when they cannot pass
  // through one of its parents.
  virtual Status make_passable_folder(const std::string& path) = 0;
  // The same, for root and one group, so that programs in the group may put files there: setgid, 2770. The group is
  // "poolshift" when /etc/group has it and we may set it, else that of the parent or our own.
  virtual Status make_shared_folder(const std::string& path) = 0;
  virtual Result<std::vector<std::string>> list_folder(const std::string& path) = 0;  // names, sorted
  // At most `limit_bytes`; a longer file is `failed`.
  virtual Result<std::string> read_file(const std::string& path, std::uint64_t limit_bytes) = 0;
  // The same, of a file that others may have put there. `damaged` when it is not a regular file of at most so many
  // bytes (a link is not followed), or when somebody else than root, this user or, where the folder is one for its
  // group, the folder's group can have written it.
  virtual Result<std::string> read_trusted_file(const std::string& path, std::uint64_t limit_bytes) = 0;
  // The same, of a file that this user has made: `denied`, with the user's name, when it belongs to another one.
  virtual Result<std::string> read_own_file(const std::string& path, std::uint64_t limit_bytes) = 0;
  // The last `limit_bytes` of a file, or all of one that is shorter. `damaged` as above, but for the folder's owner,
  // who may be anybody: a state folder belongs to the user who runs the swaps.
  virtual Result<std::string> read_end_of_file(const std::string& path, std::uint64_t limit_bytes) = 0;
  virtual Result<std::uint64_t> file_bytes(const std::string& path) = 0;
  // Links are followed.
  virtual Result<FileFacts> file_facts(const std::string& path) = 0;
  // Durable and all or nothing: temporary file, fsync, link, fsync of the folder. `exists` when the name is taken.
  virtual Status create_file(const std::string& path, const std::string& content) = 0;
  // This user's own file only, else `denied`. Durable when it returns (fdatasync). After a crash inside, any prefix of
  // `content` may be there.
  virtual Status append_file(const std::string& path, const std::string& content) = 0;
  // Cuts this user's own file to its first `size_bytes`; durable when it returns.
  virtual Status truncate_file(const std::string& path, std::uint64_t size_bytes) = 0;
  // Keeps room for `bytes` more at the end of a file, so that appending to it succeeds on a full file system too. The
  // file's size does not change. `failed` when there is no room. Ok on a file system that cannot keep any.
  virtual Status reserve_space(const std::string& path, std::uint64_t bytes) = 0;
  // Gives back what was reserved and not used.
  virtual Status release_space(const std::string& path) = 0;
  // All or nothing (rename), not durable: for what may be lost in a crash of the host.
  virtual Status replace_file(const std::string& path, const std::string& content) = 0;
  // The same, and every user may read the file: mode 0644, whatever the umask.
  virtual Status replace_public_file(const std::string& path, const std::string& content) = 0;
  // Durable and all or nothing. `exists` when the name `to` is taken. Both folders must be on one file system.
  virtual Status move_file(const std::string& from, const std::string& to) = 0;
  // Ok when it is not there.
  virtual Status remove_file(const std::string& path) = 0;
  // Creates the file when needed. `busy` when another holder has it.
  virtual Result<std::unique_ptr<FileLock>> lock_file(const std::string& path) = 0;
  // Whether somebody, this process too, holds that lock; who may only read the file may ask.
  virtual Result<bool> is_locked(const std::string& path) = 0;

  // The group whose members may ask for swaps, "poolshift" of /etc/group. `not_found` when there is none.
  virtual Result<std::uint32_t> shared_group() = 0;
  // `not_found` when no process has this id.
  virtual Result<ProcessFacts> process(std::int64_t id) = 0;
  // Who opened this local socket to be called there; `not_found` when nobody answers. Where systemd opens a service's
  // sockets it is systemd.
  virtual Result<ProcessFacts> listener(const std::string& socket_path) = 0;
  // The first line that 'PROGRAM --version' prints. `failed` when there is none within 5 s.
  virtual Result<std::string> program_version(const std::string& program) = 0;

  // An empty qcow2 file of this virtual size, replacing what was there.
  virtual Status create_overlay(const std::string& path, std::uint64_t size_bytes) = 0;
  // Starts the program `path`, gives it `order` (one line of JSON, see flow/guard.h) and waits until it is ready. It
  // keeps `shared` locked as long as it lives.
  virtual Result<std::unique_ptr<Guardian>> start_guardian(const std::string& path, const std::string& order,
                                                           FileLock& shared) = 0;
};

}  // namespace poolshift
