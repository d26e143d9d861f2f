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

class System {
 public:
  virtual ~System() = default;

  virtual std::int64_t monotonic_ms() = 0;
  virtual std::int64_t wall_clock_ms() = 0;  // since the epoch
  virtual void sleep_ms(std::int64_t duration_ms) = 0;
  virtual std::string random_id() = 0;  // 12 lower-case hexadecimal digits

  virtual Status make_folder(const std::string& path) = 0;  // with parents; ok when it is there
  virtual Result<std::vector<std::string>> list_folder(const std::string& path) = 0;  // names, sorted
  // At most `limit_bytes`; a longer file is `failed`.
  virtual Result<std::string> read_file(const std::string& path, std::uint64_t limit_bytes) = 0;
  // Durable and all or nothing: temporary file, fsync, link, fsync of the folder. `exists` when the name is taken.
  virtual Status create_file(const std::string& path, const std::string& content) = 0;
  // Durable when it returns (fdatasync). After a crash inside, any prefix of `content` may be there.
  virtual Status append_file(const std::string& path, const std::string& content) = 0;
  // Cuts a file to its first `size_bytes`; durable when it returns.
  virtual Status truncate_file(const std::string& path, std::uint64_t size_bytes) = 0;
  // All or nothing (rename), not durable: for what may be lost in a crash of the host.
  virtual Status replace_file(const std::string& path, const std::string& content) = 0;
  // Ok when it is not there.
  virtual Status remove_file(const std::string& path) = 0;
  // Creates the file when needed. `busy` when another holder has it.
  virtual Result<std::unique_ptr<FileLock>> lock_file(const std::string& path) = 0;
};

}  // namespace poolshift
