#include "child.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <thread>

#include "base/fd.h"

namespace poolshift::cli {

namespace {

constexpr std::size_t kMaxOutputBytes = POOLSHIFT_MAX_JSON_BYTES;
constexpr std::chrono::milliseconds kLookEvery{5};
constexpr std::chrono::seconds kKillPatience{1};

Failure failed(const std::vector<std::string>& arguments, const std::string& what) {
  return {POOLSHIFT_INTERNAL, "failed", fmt::format("'{}' {}", fmt::join(arguments, " "), what),
          "Run it by hand to see why."};
}

// A file, not a pipe: nobody has to feed it while the output is read.
Fd file_with(std::string_view text) {
  Fd file(memfd_create("input", MFD_CLOEXEC));
  if (!file) return file;
  const bool is_written = write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
  if (!is_written || lseek(file.get(), 0, SEEK_SET) != 0) file.close();
  return file;
}

using Clock = std::chrono::steady_clock;

enum class End { reached, late, too_long };

End read_until_end(int fd, std::string& output, Clock::time_point deadline) {
  char buffer[16384];
  while (output.size() <= kMaxOutputBytes) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd readable{fd, POLLIN, 0};
    if (left <= 0) return End::late;
    const int ready = poll(&readable, 1, static_cast<int>(left));
    if (ready == 0) return End::late;
    if (ready < 0 && errno == EINTR) continue;
    const auto got = read(fd, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return End::reached;
    output.append(buffer, static_cast<std::size_t>(got));
  }
  return End::too_long;
}

// Whether it has ended by then. Its end of the pipe may be closed long before.
bool wait_for_end(pid_t child, int& status, Clock::time_point deadline) {
  for (;;) {
    const auto ended = waitpid(child, &status, WNOHANG);
    if (ended == child || (ended < 0 && errno != EINTR)) return true;
    if (Clock::now() >= deadline) return false;
    std::this_thread::sleep_for(kLookEvery);
  }
}

}  // namespace

Outcome<std::string> output_of(const std::vector<std::string>& arguments, std::string_view input, int timeout_s) {
  const Fd stdin_file = file_with(input);
  int ends[2] = {-1, -1};
  if (!stdin_file || pipe2(ends, O_CLOEXEC) != 0) {
    return failed(arguments, fmt::format("cannot be started: {}", std::strerror(errno)));
  }
  const Fd output_end(ends[0]);
  Fd input_end(ends[1]);

  std::vector<char*> words;
  for (const auto& argument : arguments) words.push_back(const_cast<char*>(argument.c_str()));
  words.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, stdin_file.get(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, input_end.get(), STDOUT_FILENO);
  pid_t child = -1;
  const int error = posix_spawnp(&child, words[0], &actions, nullptr, words.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return failed(arguments, fmt::format("cannot be started: {}", std::strerror(error)));

  input_end.close();
  std::string output;
  const auto deadline = Clock::now() + std::chrono::seconds(timeout_s);
  auto end = read_until_end(output_end.get(), output, deadline);
  int status = 0;
  if (end == End::reached && !wait_for_end(child, status, deadline)) end = End::late;
  if (end != End::reached) {
    kill(child, SIGKILL);
    (void)wait_for_end(child, status, Clock::now() + kKillPatience);  // one that hangs in the kernel stays
  }
  if (end == End::late) return failed(arguments, fmt::format("did not end within {} s", timeout_s));
  if (end == End::too_long) return failed(arguments, fmt::format("wrote more than {} bytes", kMaxOutputBytes));
  if (!WIFEXITED(status)) return failed(arguments, fmt::format("was ended by signal {}", WTERMSIG(status)));
  if (WEXITSTATUS(status) != 0) return failed(arguments, fmt::format("ended with {}", WEXITSTATUS(status)));
  return output;
}

}  // namespace poolshift::cli
