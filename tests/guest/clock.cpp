// guest-clock LOG TIMES: notes when a guest's serial log grew, by the host's clock.
//
// A suspended guest's clock stands still, so the guest itself cannot see how long it was paused. Each line of TIMES is
// "HOST_US SIZE": at HOST_US (microseconds since 1970) LOG had SIZE bytes, and a millisecond or so before it was
// shorter. Ends when LOG is removed.

#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <ctime>

namespace {

std::uint64_t now_us() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000 + static_cast<std::uint64_t>(now.tv_nsec) / 1000;
}

int fail(const char* what) {
  std::perror(what);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: guest-clock LOG TIMES\n", stderr);
    return 2;
  }
  const int log = open(argv[1], O_RDONLY | O_CLOEXEC);
  if (log < 0) return fail(argv[1]);
  const int times = open(argv[2], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (times < 0) return fail(argv[2]);
  const int watch = inotify_init1(IN_CLOEXEC);
  if (watch < 0 || inotify_add_watch(watch, argv[1], IN_MODIFY | IN_ATTRIB) < 0) return fail("inotify");
  setpriority(PRIO_PROCESS, 0, -10);  // be woken on time on a busy machine; harmless where it is not allowed

  off_t seen = 0;
  for (;;) {
    struct stat status {};
    if (fstat(log, &status) != 0) return fail(argv[1]);
    if (status.st_size > seen) {
      seen = status.st_size;
      char line[64];
      const int length = std::snprintf(line, sizeof line, "%" PRIu64 " %jd\n", now_us(), static_cast<intmax_t>(seen));
      if (write(times, line, static_cast<std::size_t>(length)) != length) return fail(argv[2]);
    }
    if (status.st_nlink == 0) return 0;
    alignas(inotify_event) char events[4096];
    if (read(watch, events, sizeof events) < 0 && errno != EINTR) return fail("inotify");
    // QEMU writes the log byte by byte. To note every byte would cost as much as the guest's work.
    constexpr timespec kMillisecond{0, 1'000'000};
    nanosleep(&kMillisecond, nullptr);
  }
}
