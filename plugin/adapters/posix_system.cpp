#include "adapters/posix_system.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <string_view>
#include <system_error>
#include <thread>

namespace poolshift {
namespace {

constexpr mode_t kFileMode = 0640;
constexpr mode_t kFolderMode = 0750;

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&&) = delete;
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_;
};

class PosixFileLock final : public FileLock {
 public:
  explicit PosixFileLock(Fd fd) : fd_(std::move(fd)) {}

 private:
  Fd fd_;
};

// strerror() is not thread-safe.
std::string text_of(int error_number) { return std::generic_category().message(error_number); }

Error system_error(std::string_view verb, const std::string& path, int error_number) {
  const auto message = fmt::format("Cannot {} '{}': {}", verb, path, text_of(error_number));
  switch (error_number) {
    case ENOENT: return {ErrorCode::not_found, message, "Check that the path is right and that its folder exists."};
    case EEXIST: return {ErrorCode::exists, message, "Use another name, or remove the file."};
    case EACCES:
    case EPERM: return {ErrorCode::denied, message, "Run as the user who owns the folder, or correct its permissions."};
    case ELOOP:
      return {ErrorCode::denied, message, "A symbolic link is not followed here: put a real file in its place."};
    case ENOSPC:
    case EDQUOT: return {ErrorCode::failed, message, "Make space on this file system and try again."};
    case EROFS: return {ErrorCode::denied, message, "The file system is mounted read-only: find out why."};
    default: return {ErrorCode::failed, message, "Check the file system and the kernel's log."};
  }
}

Fd open_file(const std::string& path, int flags) {
  int fd = -1;
  do {
    fd = ::open(path.c_str(), flags | O_NOFOLLOW | O_CLOEXEC, kFileMode);
  } while (fd < 0 && errno == EINTR);
  return Fd(fd);
}

std::string folder_of(const std::string& path) {
  const auto slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string name_of_file(const std::string& path) {
  const auto slash = path.rfind('/');
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

Status sync_folder(const std::string& path) {
  const Fd fd = open_file(path, O_RDONLY | O_DIRECTORY);
  if (!fd || ::fsync(fd.get()) != 0) return system_error("make durable the folder", path, errno);
  return {};
}

Status write_all(int fd, const std::string& path, std::string_view content) {
  while (!content.empty()) {
    const ssize_t written = ::write(fd, content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return system_error("write", path, errno);
    content.remove_prefix(static_cast<std::size_t>(written));
  }
  return {};
}

class PosixSystem final : public System {
 public:
  std::int64_t monotonic_ms() override {
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }

  std::int64_t wall_clock_ms() override {
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
        .count();
  }

  void sleep_ms(std::int64_t duration_ms) override {
    if (duration_ms > 0) std::this_thread::sleep_for(std::chrono::milliseconds(duration_ms));
  }

  std::string random_id() override {
    std::array<unsigned char, 6> bytes{};
    // Up to 256 bytes come whole once the kernel's generator is ready; before that a signal may interrupt the
    // wait.
    while (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    }
    std::string id;
    for (const auto byte : bytes) id += fmt::format("{:02x}", byte);
    return id;
  }

  Status make_folder(const std::string& path) override {
    struct stat status {};
    if (::stat(path.c_str(), &status) == 0) {
      if (S_ISDIR(status.st_mode)) return {};
      return Error{ErrorCode::failed, fmt::format("'{}' is not a folder", path), "Move that file away."};
    }
    if (errno != ENOENT) return system_error("look at the folder", path, errno);
    const auto trimmed = path.substr(0, path.find_last_not_of('/') + 1);
    if (trimmed.empty()) return system_error("make the folder", path, ENOENT);
    const auto parent = folder_of(trimmed);
    POOLSHIFT_TRY(make_folder(parent));
    // Somebody else may make it at the same time.
    if (::mkdir(trimmed.c_str(), kFolderMode) != 0 && errno != EEXIST) {
      return system_error("make the folder", path, errno);
    }
    // A file in a folder is only as durable as the folder's own name.
    return sync_folder(parent);
  }

  Result<std::vector<std::string>> list_folder(const std::string& path) override {
    DIR* folder = ::opendir(path.c_str());
    if (folder == nullptr) return system_error("list the folder", path, errno);
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = ::readdir(folder)) {
      if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
      errno = 0;
    }
    const int error_number = errno;
    ::closedir(folder);
    if (error_number != 0) return system_error("list the folder", path, error_number);
    std::sort(names.begin(), names.end());
    return names;
  }

  Result<std::string> read_file(const std::string& path, std::uint64_t limit_bytes) override {
    // O_NONBLOCK: opening a FIFO that somebody put there must not wait for its writer.
    const Fd fd = open_file(path, O_RDONLY | O_NONBLOCK);
    struct stat status {};
    if (!fd || ::fstat(fd.get(), &status) != 0) return system_error("read", path, errno);
    if (!S_ISREG(status.st_mode)) {
      return Error{ErrorCode::failed, fmt::format("'{}' is not a regular file", path), "Move it away."};
    }
    std::string content;
    std::array<char, 64 * 1024> buffer;
    for (;;) {
      const ssize_t length = ::read(fd.get(), buffer.data(), buffer.size());
      if (length < 0 && errno == EINTR) continue;
      if (length < 0) return system_error("read", path, errno);
      if (length == 0) return content;
      content.append(buffer.data(), static_cast<std::size_t>(length));
      if (content.size() > limit_bytes) {
        return Error{ErrorCode::failed, fmt::format("'{}' is longer than {} bytes", path, limit_bytes),
                     "This is not a file that PoolShift wrote: move it away."};
      }
    }
  }

  Status create_file(const std::string& path, const std::string& content) override {
    const auto temporary = temporary_name(path);
    POOLSHIFT_TRY(write_temporary(temporary, content, true));
    // Unlike rename(), link() never replaces a file.
    const int error_number = ::link(temporary.c_str(), path.c_str()) == 0 ? 0 : errno;
    ::unlink(temporary.c_str());
    if (error_number != 0) return system_error("create", path, error_number);
    return sync_folder(folder_of(path));
  }

  Status append_file(const std::string& path, const std::string& content) override {
    const Fd fd = open_file(path, O_WRONLY | O_APPEND);
    if (!fd) return system_error("append to", path, errno);
    POOLSHIFT_TRY(write_all(fd.get(), path, content));
    // After a failed fdatasync() the pages count as clean: trying again would report a success that is none.
    if (::fdatasync(fd.get()) != 0) return system_error("make durable", path, errno);
    return {};
  }

  Status truncate_file(const std::string& path, std::uint64_t size_bytes) override {
    const Fd fd = open_file(path, O_WRONLY);
    if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(size_bytes)) != 0 || ::fsync(fd.get()) != 0) {
      return system_error("truncate", path, errno);
    }
    return {};
  }

  Status replace_file(const std::string& path, const std::string& content) override {
    const auto temporary = temporary_name(path);
    POOLSHIFT_TRY(write_temporary(temporary, content, false));
    if (::rename(temporary.c_str(), path.c_str()) != 0) {
      const int error_number = errno;
      ::unlink(temporary.c_str());
      return system_error("replace", path, error_number);
    }
    return {};
  }

  Status remove_file(const std::string& path) override {
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) return system_error("remove", path, errno);
    return {};
  }

  Result<std::unique_ptr<FileLock>> lock_file(const std::string& path) override {
    for (;;) {
      Fd fd = open_file(path, O_RDWR | O_CREAT);
      if (!fd) return system_error("lock", path, errno);
      while (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
        if (errno == EINTR) continue;
        if (errno == EWOULDBLOCK) {
          return Error{ErrorCode::busy, fmt::format("'{}' is locked by another process", path),
                       "Wait until that process is done; fuser(1) shows which one it is."};
        }
        return system_error("lock", path, errno);
      }
      // Whoever held the lock before may have removed the file: then we hold a lock that nobody else can see.
      struct stat ours {};
      struct stat named {};
      if (::fstat(fd.get(), &ours) != 0) return system_error("lock", path, errno);
      if (::lstat(path.c_str(), &named) == 0 && ours.st_dev == named.st_dev && ours.st_ino == named.st_ino) {
        return std::unique_ptr<FileLock>(std::make_unique<PosixFileLock>(std::move(fd)));
      }
    }
  }

 private:
  std::string temporary_name(const std::string& path) {
    return fmt::format("{}/.{}.{}.tmp", folder_of(path), name_of_file(path), random_id());
  }

  Status write_temporary(const std::string& path, const std::string& content, bool durable) {
    const Fd fd = open_file(path, O_WRONLY | O_CREAT | O_EXCL);
    if (!fd) return system_error("create", path, errno);
    auto written = write_all(fd.get(), path, content);
    if (written.ok() && durable && ::fsync(fd.get()) != 0) written = system_error("make durable", path, errno);
    if (!written) ::unlink(path.c_str());
    return written;
  }
};

}  // namespace

std::unique_ptr<System> make_posix_system() { return std::make_unique<PosixSystem>(); }

}  // namespace poolshift
