#include "adapters/posix_system.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <optional>
#include <sstream>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "adapters/qcow2.h"
#include "adapters/sigpipe.h"
#include "base/fd.h"

namespace poolshift {
namespace {

constexpr mode_t kFileMode = 0640;
constexpr mode_t kPublicFileMode = 0644;
constexpr mode_t kFolderMode = 0750;
constexpr mode_t kPassableFolderMode = 0711;
constexpr mode_t kSharedFolderMode = 02770;
constexpr const char* kSharedGroup = "poolshift";
constexpr mode_t kOverlayMode = 0600;
constexpr int kGuardianReadyMs = 5'000;
constexpr int kGuardianEndMs = 100;
constexpr int kVersionMs = 5'000;
constexpr int kEndMs = 2'000;  // for a program that has said all, and for one that was killed
constexpr std::uint64_t kMaxProcFileBytes = 64 * 1024;

class PosixFileLock final : public FileLock {
 public:
  explicit PosixFileLock(Fd fd) : fd_(std::move(fd)) {}

  int fd() const { return fd_.get(); }

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

// From the file alone: the name service may ask the network, and the qemu hook comes by here.
std::optional<gid_t> shared_group() {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(::fopen("/etc/group", "re"), ::fclose);
  if (!file) return std::nullopt;
  std::array<char, 64 * 1024> buffer;
  struct group entry {};
  struct group* found = nullptr;
  while (::fgetgrent_r(file.get(), &entry, buffer.data(), buffer.size(), &found) == 0) {
    if (std::string_view(entry.gr_name) == kSharedGroup) return entry.gr_gid;
  }
  return std::nullopt;
}

// What is left of `limit_bytes` is not read: `whole` says whether that was all.
Status read_all(int fd, const std::string& path, std::uint64_t limit_bytes, std::string& content, bool& whole) {
  std::array<char, 64 * 1024> buffer;
  for (;;) {
    const ssize_t length = ::read(fd, buffer.data(), buffer.size());
    if (length < 0 && errno == EINTR) continue;
    if (length < 0) return system_error("read", path, errno);
    content.append(buffer.data(), static_cast<std::size_t>(length));
    whole = content.size() <= limit_bytes;
    if (length == 0 || !whole) return {};
  }
}

// Who else than root and this user may have put a file there.
enum class Trust {
  none,
  folder_owner,  // whoever the folder belongs to
};

// Why this file, in this folder, is not one to believe; empty: it is.
std::string doubt_about(const struct stat& file, const struct stat& folder, Trust trust) {
  const auto is_ours = [&](const struct stat& status) {
    return status.st_uid == 0 || status.st_uid == ::geteuid() ||
           (trust == Trust::folder_owner && status.st_uid == folder.st_uid);
  };
  if (!is_ours(folder)) return fmt::format("its folder belongs to user {}", folder.st_uid);
  if ((folder.st_mode & S_IWOTH) != 0) return "every user may write to its folder";
  if (!S_ISREG(file.st_mode)) return "it is not a regular file";
  if (file.st_nlink > 2) return "it has other names";  // two while it is being put there
  if ((file.st_mode & S_IWOTH) != 0) return "every user may write to it";
  const bool of_the_group = (folder.st_mode & S_IWGRP) != 0 && file.st_gid == folder.st_gid;
  if (!is_ours(file) && !of_the_group) return fmt::format("it belongs to user {}", file.st_uid);
  return "";
}

Error untrusted(const std::string& path, const std::string& why) {
  return {ErrorCode::damaged, fmt::format("'{}' is not read: {}", path, why),
          "Look who has put it there, and move it away."};
}

// What is opened next is opened below this very folder, also when another one takes its name meanwhile.
Result<Fd> open_folder(const std::string& path, struct stat& status) {
  Fd fd(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fstat(fd.get(), &status) != 0) return system_error("look at the folder", path, errno);
  return fd;
}

Fd open_below(const Fd& folder, const std::string& path, int flags, mode_t mode) {
  int fd = -1;
  do {
    fd = ::openat(folder.get(), name_of_file(path).c_str(), flags | O_NOFOLLOW | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  return Fd(fd);
}

Result<Fd> open_trusted(const std::string& path, Trust trust, struct stat& file, struct stat& folder) {
  const auto folder_fd = open_folder(folder_of(path), folder);
  if (!folder_fd) return folder_fd.error();
  Fd fd = open_below(*folder_fd, path, O_RDONLY | O_NONBLOCK, 0);
  if (!fd && errno == ELOOP) return untrusted(path, "it is a symbolic link");
  if (!fd && errno == ENXIO) return untrusted(path, "it is not a regular file");  // a socket
  if (!fd || ::fstat(fd.get(), &file) != 0) return system_error("read", path, errno);
  if (const auto doubt = doubt_about(file, folder, trust); !doubt.empty()) return untrusted(path, doubt);
  return fd;
}

std::string user_name(uid_t uid) {
  std::array<char, 16 * 1024> buffer;
  struct passwd entry {};
  struct passwd* found = nullptr;
  ::getpwuid_r(uid, &entry, buffer.data(), buffer.size(), &found);
  return found != nullptr ? found->pw_name : std::to_string(uid);
}

Error not_ours(const std::string& path, uid_t owner) {
  const auto name = user_name(owner);
  return {ErrorCode::denied, fmt::format("'{}' belongs to user '{}'", path, name),
          fmt::format("Do this as that user, with 'sudo -u {}'.", name)};
}

// A file that only this user can have made: in a folder of a group a member of it may have put another in its place.
Result<Fd> open_own_to_write(const std::string& path, int flags) {
  Fd fd = open_file(path, flags | O_NONBLOCK);
  struct stat file {};
  if (!fd || ::fstat(fd.get(), &file) != 0) return system_error("write to", path, errno);
  if (!S_ISREG(file.st_mode)) return untrusted(path, "it is not a regular file");
  if (file.st_uid != ::geteuid()) return not_ours(path, file.st_uid);
  if (file.st_nlink > 2) return untrusted(path, "it has other names");  // two after a crash in create_file()
  return fd;
}

// Both ends are above the numbers that a child's own descriptors get.
struct Pipe {
  Fd read{-1};
  Fd write{-1};
};

// A copy that no program inherits, above the numbers that a child's own descriptors get: placing one of those then
// never overwrites another.
Fd high_copy(int fd) { return Fd(::fcntl(fd, F_DUPFD_CLOEXEC, 16)); }

Result<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return system_error("make", "a pipe", errno);
  const Fd read(ends[0]);
  const Fd write(ends[1]);
  Pipe pipe{high_copy(ends[0]), high_copy(ends[1])};
  if (!pipe.read || !pipe.write) return system_error("make", "a pipe", errno);
  return pipe;
}

// A program in a session of its own: no signal meant for us reaches it, and it inherits none of our signal mask,
// handlers and descriptors, but gets `fds` as its 0, 1, 2 and so on.
Result<pid_t> start_program(const std::vector<std::string>& command, const std::vector<int>& fds) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  for (int number = 0; number < static_cast<int>(fds.size()); ++number) {
    posix_spawn_file_actions_adddup2(&actions, fds[static_cast<std::size_t>(number)], number);
  }
  posix_spawn_file_actions_addclosefrom_np(&actions, static_cast<int>(fds.size()));
  sigset_t signals;
  sigemptyset(&signals);
  posix_spawnattr_setsigmask(&attributes, &signals);
  sigfillset(&signals);
  posix_spawnattr_setsigdefault(&attributes, &signals);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::vector<char*> arguments;
  for (const auto& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  pid_t pid = -1;
  const int error_number =
      ::posix_spawnp(&pid, command.front().c_str(), &actions, &attributes, arguments.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (error_number != 0) return system_error("start", command.front(), error_number);
  return pid;
}

enum class End { exited, killed, unknown };

// How a program has ended that may have closed its output long before. It is killed when it has not ended after
// `timeout_ms`; `exit_code` is of one that has exited. Unknown: in a process that ignores SIGCHLD the kernel keeps no
// child's status.
End end_of_program(pid_t pid, int timeout_ms, int& exit_code) {
  constexpr auto kLookEvery = std::chrono::milliseconds(5);
  auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  for (bool is_killed = false;;) {
    int status = 0;
    const pid_t waited = ::waitpid(pid, &status, WNOHANG);
    if (waited == pid) {
      exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      return is_killed ? End::killed : End::exited;
    }
    if (waited < 0 && errno != EINTR) return is_killed ? End::killed : End::unknown;
    if (std::chrono::steady_clock::now() >= deadline) {
      if (is_killed) return End::killed;  // it hangs in the kernel, and ends when that lets it
      ::kill(pid, SIGKILL);
      is_killed = true;
      deadline += std::chrono::milliseconds(kEndMs);
    }
    std::this_thread::sleep_for(kLookEvery);
  }
}

// Until the end of the file, the end of a line when `one_line`, or the deadline; at most `limit_bytes`.
std::string read_text(int fd, std::size_t limit_bytes, bool one_line, int timeout_ms) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  std::string text;
  while (text.size() < limit_bytes && !(one_line && text.find('\n') != std::string::npos)) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    pollfd waited{fd, POLLIN, 0};
    const int ready = ::poll(&waited, 1, static_cast<int>(std::max<std::int64_t>(left, 0)));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) break;
    std::array<char, 512> buffer;
    const ssize_t length = ::read(fd, buffer.data(), buffer.size());
    if (length < 0 && errno == EINTR) continue;
    if (length <= 0) break;
    text.append(buffer.data(), static_cast<std::size_t>(length));
  }
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

std::int64_t ms_of(const timespec& time) { return time.tv_sec * 1'000 + time.tv_nsec / 1'000'000; }

std::int64_t clock_ms(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return ms_of(now);
}

// The fields of /proc/ID/stat behind the program's name, which may hold any character: proc(5) calls the first "(3)".
std::vector<std::string> fields_behind_name(const std::string& stat) {
  std::vector<std::string> fields;
  const auto end = stat.rfind(')');
  std::istringstream rest(end == std::string::npos ? "" : stat.substr(end + 1));
  for (std::string field; rest >> field;) fields.push_back(field);
  return fields;
}

// The guardian's side is guardian/main.cpp.
class PosixGuardian final : public Guardian {
 public:
  PosixGuardian(Fd to, Fd from) : to_(std::move(to)), from_(std::move(from)) {}

  Status begin() override { return say("begin\n"); }

  bool stands_by() override {
    pollfd answer{from_.get(), POLLIN, 0};
    int ready = -1;
    do {
      ready = ::poll(&answer, 1, 0);
    } while (ready < 0 && errno == EINTR);
    return ready == 0;
  }

  void stand_down() override {
    (void)say("done\n");  // when it is gone there is nobody to tell
    to_.close();
    read_text(from_.get(), 64, false, kGuardianEndMs);  // until it has ended; one that acts takes longer
  }

 private:
  Status say(std::string_view word) {
    const SigpipeBlocked blocked;
    if (write_all(to_.get(), "the guardian's pipe", word)) return {};
    return Error{ErrorCode::failed, "The guardian process has ended", "Look for its messages in the system's log."};
  }

  Fd to_;
  Fd from_;
};

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

  Status make_folder(const std::string& path) override { return make_folders(path, kFolderMode); }

  Status make_passable_folder(const std::string& path) override {
    POOLSHIFT_TRY(make_folders(path, kPassableFolderMode));
    std::array<char, PATH_MAX> resolved;
    if (::realpath(path.c_str(), resolved.data()) == nullptr) return system_error("look at the folder", path, errno);
    for (std::string folder = resolved.data();; folder = folder_of(folder)) {
      struct stat status {};
      if (::stat(folder.c_str(), &status) != 0) return system_error("look at the folder", folder, errno);
      if ((status.st_mode & S_IXOTH) == 0) {
        return Error{ErrorCode::denied, fmt::format("Other users cannot pass through the folder '{}'", folder),
                     fmt::format("QEMU's user has to reach files in '{}': run 'chmod o+x {}', or name another folder.",
                                 path, folder)};
      }
      if (folder == "/") return {};
    }
  }

  Status make_shared_folder(const std::string& path) override {
    struct stat status {};
    if (::lstat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) return {};  // as its owner wants it
    POOLSHIFT_TRY(make_folders(path, kFolderMode));
    // Without the right to give it away the folder keeps the group that it has.
    if (const auto group = shared_group()) (void)!::lchown(path.c_str(), static_cast<uid_t>(-1), *group);
    if (::chmod(path.c_str(), kSharedFolderMode) != 0) return system_error("set the mode of", path, errno);
    return {};
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
    bool whole = false;
    POOLSHIFT_TRY(read_all(fd.get(), path, limit_bytes, content, whole));
    if (whole) return content;
    return Error{ErrorCode::failed, fmt::format("'{}' is longer than {} bytes", path, limit_bytes),
                 "This is not a file that PoolShift wrote: move it away."};
  }

  Result<std::string> read_trusted_file(const std::string& path, std::uint64_t limit_bytes) override {
    struct stat file {};
    struct stat folder {};
    const auto fd = open_trusted(path, Trust::none, file, folder);
    if (!fd) return fd.error();
    return read_trusted(*fd, path, limit_bytes);
  }

  Result<std::string> read_own_file(const std::string& path, std::uint64_t limit_bytes) override {
    struct stat file {};
    struct stat folder {};
    const auto fd = open_trusted(path, Trust::folder_owner, file, folder);
    if (!fd) return fd.error();
    if (file.st_uid != ::geteuid()) return not_ours(path, file.st_uid);
    if (const auto doubt = doubt_about(file, folder, Trust::none); !doubt.empty()) return untrusted(path, doubt);
    return read_trusted(*fd, path, limit_bytes);
  }

  Result<std::string> read_end_of_file(const std::string& path, std::uint64_t limit_bytes) override {
    struct stat file {};
    struct stat folder {};
    const auto fd = open_trusted(path, Trust::folder_owner, file, folder);
    if (!fd) return fd.error();
    const auto limit = static_cast<off_t>(limit_bytes);
    if (file.st_size > limit && ::lseek(fd->get(), file.st_size - limit, SEEK_SET) < 0) {
      return system_error("read", path, errno);
    }
    std::string content;
    bool whole = false;  // it may have grown meanwhile: what came later is not read
    POOLSHIFT_TRY(read_all(fd->get(), path, limit_bytes, content, whole));
    content.resize(std::min<std::uint64_t>(content.size(), limit_bytes));
    return content;
  }

  Result<std::uint64_t> file_bytes(const std::string& path) override {
    struct stat status {};
    if (::lstat(path.c_str(), &status) != 0) return system_error("look at", path, errno);
    if (!S_ISREG(status.st_mode)) {
      return Error{ErrorCode::failed, fmt::format("'{}' is not a regular file", path), "Move it away."};
    }
    return static_cast<std::uint64_t>(status.st_size);
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
    const auto fd = open_own_to_write(path, O_WRONLY | O_APPEND);
    if (!fd) return fd.error();
    POOLSHIFT_TRY(write_all(fd->get(), path, content));
    // After a failed fdatasync() the pages count as clean: trying again would report a success that is none.
    if (::fdatasync(fd->get()) != 0) return system_error("make durable", path, errno);
    return {};
  }

  Status truncate_file(const std::string& path, std::uint64_t size_bytes) override {
    const auto fd = open_own_to_write(path, O_WRONLY);
    if (!fd) return fd.error();
    if (::ftruncate(fd->get(), static_cast<off_t>(size_bytes)) != 0 || ::fsync(fd->get()) != 0) {
      return system_error("truncate", path, errno);
    }
    return {};
  }

  Status reserve_space(const std::string& path, std::uint64_t bytes) override {
    const Fd fd = open_file(path, O_WRONLY);
    struct stat file {};
    if (!fd || ::fstat(fd.get(), &file) != 0) return system_error("reserve space for", path, errno);
    const auto length = static_cast<off_t>(bytes);
    if (::fallocate(fd.get(), FALLOC_FL_KEEP_SIZE, file.st_size, length) == 0 || errno == EOPNOTSUPP) return {};
    return system_error("reserve space for", path, errno);
  }

  // Cutting a file to its own size frees what is beyond its end.
  Status release_space(const std::string& path) override {
    const Fd fd = open_file(path, O_WRONLY);
    struct stat file {};
    if (!fd || ::fstat(fd.get(), &file) != 0 || ::ftruncate(fd.get(), file.st_size) != 0) {
      return system_error("release the space of", path, errno);
    }
    return {};
  }

  Status replace_file(const std::string& path, const std::string& content) override {
    const auto temporary = temporary_name(path);
    POOLSHIFT_TRY(write_temporary(temporary, content, false));
    return rename_temporary(temporary, path);
  }

  Status replace_public_file(const std::string& path, const std::string& content) override {
    const auto temporary = temporary_name(path);
    POOLSHIFT_TRY(write_temporary(temporary, content, false));
    if (::chmod(temporary.c_str(), kPublicFileMode) != 0) {
      const int error_number = errno;
      ::unlink(temporary.c_str());
      return system_error("change the mode of", temporary, error_number);
    }
    return rename_temporary(temporary, path);
  }

  Status move_file(const std::string& from, const std::string& to) override {
    // Unlike rename(), this never replaces a file.
    if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) != 0) {
      return system_error("move", from, errno);
    }
    POOLSHIFT_TRY(sync_folder(folder_of(to)));
    return sync_folder(folder_of(from));
  }

  Status remove_file(const std::string& path) override {
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) return system_error("remove", path, errno);
    return {};
  }

  Result<FileFacts> file_facts(const std::string& path) override {
    struct stat status {};
    struct stat name {};
    if (::stat(path.c_str(), &status) != 0 || ::lstat(path.c_str(), &name) != 0) {
      return system_error("look at", path, errno);
    }
    FileFacts facts;
    facts.kind = S_ISREG(status.st_mode)   ? FileFacts::Kind::regular
                 : S_ISDIR(status.st_mode) ? FileFacts::Kind::folder
                                           : FileFacts::Kind::other;
    facts.owner = status.st_uid;
    facts.group = status.st_gid;
    facts.mode = status.st_mode & 07777;
    facts.changed_wall_ms = ms_of(name.st_ctim);
    std::array<char, 256> label;
    const ssize_t length = ::getxattr(path.c_str(), "security.selinux", label.data(), label.size());
    if (length > 0) facts.selinux_label.assign(label.data(), ::strnlen(label.data(), static_cast<std::size_t>(length)));
    return facts;
  }

  Result<std::uint32_t> shared_group() override {
    const auto group = poolshift::shared_group();
    if (group) return *group;
    return Error{ErrorCode::not_found, fmt::format("There is no group '{}'", kSharedGroup),
                 fmt::format("Make it with 'groupadd --system {}'.", kSharedGroup)};
  }

  Result<ProcessFacts> process(std::int64_t id) override {
    const auto stat = read_file(fmt::format("/proc/{}/stat", id), kMaxProcFileBytes);
    if (!stat) {
      return Error{ErrorCode::not_found, fmt::format("There is no process {}", id), "It has ended."};
    }
    constexpr std::size_t kStartTime = 22 - 3;
    const auto fields = fields_behind_name(*stat);
    const auto open = stat->find('(');
    if (fields.size() <= kStartTime || open == std::string::npos) {
      return Error{ErrorCode::failed, fmt::format("'/proc/{}/stat' is not as proc(5) says", id), "Report it."};
    }
    const auto started_ticks = ::strtoll(fields[kStartTime].c_str(), nullptr, 10);
    const auto age_ms = clock_ms(CLOCK_BOOTTIME) - started_ticks * 1'000 / ::sysconf(_SC_CLK_TCK);
    return ProcessFacts{id, stat->substr(open + 1, stat->rfind(')') - open - 1), wall_clock_ms() - age_ms};
  }

  Result<ProcessFacts> listener(const std::string& socket_path) override {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (socket_path.size() >= sizeof address.sun_path) return system_error("call", socket_path, ENAMETOOLONG);
    socket_path.copy(address.sun_path, socket_path.size());
    const Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) return system_error("call", socket_path, errno);
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      return system_error("call", socket_path, errno == ECONNREFUSED ? ENOENT : errno);
    }
    ucred other{};
    socklen_t length = sizeof other;
    if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &other, &length) != 0) {
      return system_error("call", socket_path, errno);
    }
    return process(other.pid);
  }

  Result<std::string> program_version(const std::string& program) override {
    auto output = make_pipe();
    if (!output) return output.error();
    const Fd nothing(::open("/dev/null", O_RDWR | O_CLOEXEC));
    const Fd null = high_copy(nothing.get());
    if (!null) return system_error("open", "/dev/null", errno);
    const auto started = start_program({program, "--version"}, {null.get(), output->write.get(), null.get()});
    if (!started) return started.error();
    output->write.close();
    auto text = read_text(output->read.get(), 4096, true, kVersionMs);
    ::kill(-*started, SIGKILL);  // its session: it may hang, or have more to say
    int exit_code = 0;
    (void)end_of_program(*started, kEndMs, exit_code);
    text.resize(std::min(text.find('\n'), text.size()));
    if (!text.empty()) return text;
    return Error{ErrorCode::failed, fmt::format("'{} --version' says nothing within {} s", program, kVersionMs / 1'000),
                 "Run it by hand to see why."};
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

  Result<bool> is_locked(const std::string& path) override {
    const Fd fd = open_file(path, O_RDONLY);
    if (!fd) return system_error("look at the lock of", path, errno);
    // A shared one, so that of two who look none keeps the other from it.
    while (::flock(fd.get(), LOCK_SH | LOCK_NB) != 0) {
      if (errno == EINTR) continue;
      if (errno == EWOULDBLOCK) return true;
      return system_error("look at the lock of", path, errno);
    }
    return false;
  }

  Status create_overlay(const std::string& path, std::uint64_t size_bytes) override {
    const auto header = empty_qcow2(size_bytes);
    if (!header) return header.error();
    struct stat folder {};
    const auto folder_fd = open_folder(folder_of(path), folder);
    if (!folder_fd) return folder_fd.error();
    if ((folder.st_uid != 0 && folder.st_uid != ::geteuid()) || (folder.st_mode & S_IWOTH) != 0) {
      return Error{ErrorCode::denied,
                   fmt::format("Other users may put files into the overlays' folder '{}'", folder_of(path)),
                   "Make it root's or your own, and writable for its owner and its group only."};
    }
    if (::unlinkat(folder_fd->get(), name_of_file(path).c_str(), 0) != 0 && errno != ENOENT) {
      return system_error("remove", path, errno);
    }
    // It is written through this descriptor alone: what takes its name meanwhile is not touched.
    const Fd file = open_below(*folder_fd, path, O_WRONLY | O_CREAT | O_EXCL, kOverlayMode);
    if (!file) return system_error("create", path, errno);
    POOLSHIFT_TRY(write_all(file.get(), path, header->begin));
    if (::ftruncate(file.get(), static_cast<off_t>(header->file_bytes)) != 0 || ::fsync(file.get()) != 0) {
      return system_error("write", path, errno);
    }
    return {};
  }

  Result<std::unique_ptr<Guardian>> start_guardian(const std::string& path, const std::string& order,
                                                   FileLock& shared) override {
    const auto* lock = dynamic_cast<const PosixFileLock*>(&shared);
    if (lock == nullptr) return Error{ErrorCode::internal, "The shared lock is no file's", "Report this."};
    auto to = make_pipe();
    if (!to) return to.error();
    auto from = make_pipe();
    if (!from) return from.error();
    const Fd nothing(::open("/dev/null", O_RDWR | O_CLOEXEC));
    const Fd null = high_copy(nothing.get());
    const Fd held = high_copy(lock->fd());
    if (!null || !held) return system_error("start", path, errno);
    const auto started = start_program({path}, {to->read.get(), from->write.get(), null.get(), held.get()});
    if (!started) {
      auto error = started.error();
      error.advice = "Check that all of PoolShift is installed.";
      return error;
    }
    to->read.close();
    from->write.close();
    {
      const SigpipeBlocked blocked;
      (void)write_all(to->write.get(), path, order + "\n");  // what goes wrong shows in the answer
    }
    // The program that was started has read the order and leaves a child of its own, which init looks after: no zombie
    // is left to a process that lives long, and no other thread's waitpid() gets in between.
    const auto answer = read_text(from->read.get(), 4096, true, kGuardianReadyMs);
    if (answer != "ready") ::kill(-*started, SIGKILL);  // its session: it has nothing to bring back yet
    int exit_code = 0;
    (void)end_of_program(*started, kEndMs, exit_code);
    if (answer == "ready") {
      return std::unique_ptr<Guardian>(std::make_unique<PosixGuardian>(std::move(to->write), std::move(from->read)));
    }
    return Error{
        ErrorCode::failed,
        fmt::format("The guardian '{}' did not get ready: {}", path, answer.empty() ? "it does not answer" : answer),
        "Look for its messages in the system's log; check that libvirtd runs."};
  }

 private:
  static Result<std::string> read_trusted(const Fd& fd, const std::string& path, std::uint64_t limit_bytes) {
    std::string content;
    bool whole = false;
    POOLSHIFT_TRY(read_all(fd.get(), path, limit_bytes, content, whole));
    if (whole) return content;
    return untrusted(path, fmt::format("it is longer than {} bytes", limit_bytes));
  }

  static Status make_folders(const std::string& path, mode_t mode) {
    struct stat status {};
    if (::stat(path.c_str(), &status) == 0) {
      if (S_ISDIR(status.st_mode)) return {};
      return Error{ErrorCode::failed, fmt::format("'{}' is not a folder", path), "Move that file away."};
    }
    if (errno != ENOENT) return system_error("look at the folder", path, errno);
    const auto trimmed = path.substr(0, path.find_last_not_of('/') + 1);
    if (trimmed.empty()) return system_error("make the folder", path, ENOENT);
    const auto parent = folder_of(trimmed);
    POOLSHIFT_TRY(make_folders(parent, mode));
    // Somebody else may make it at the same time.
    if (::mkdir(trimmed.c_str(), mode) != 0) {
      if (errno != EEXIST) return system_error("make the folder", path, errno);
    } else if (mode == kPassableFolderMode && ::chmod(trimmed.c_str(), mode) != 0) {  // whatever the umask is
      return system_error("make passable the folder", path, errno);
    }
    // A file in a folder is only as durable as the folder's own name.
    return sync_folder(parent);
  }

  std::string temporary_name(const std::string& path) {
    return fmt::format("{}/.{}.{}.tmp", folder_of(path), name_of_file(path), random_id());
  }

  static Status rename_temporary(const std::string& temporary, const std::string& path) {
    if (::rename(temporary.c_str(), path.c_str()) == 0) return {};
    const int error_number = errno;
    ::unlink(temporary.c_str());
    return system_error("replace", path, error_number);
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
