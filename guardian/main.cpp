// The guardian of one guest while it is suspended (flow/guard.h). Started by the library before the suspend, it
// outlives whoever suspended the guest:
//
//   standard input                        standard output
//   {...}\n    the order                  ready\n    libvirt answers and has the domain
//   begin\n    the clock starts           acting\n   it has stepped in
//   done\n     the guest runs: the end    failed ...  not ready, and why
//
// It steps in when the standard input ends, when the clock has run out, and at SIGTERM, SIGINT and SIGHUP (systemd
// sends them to all processes of a service). Descriptor 3 is a lock that it keeps as long as it lives.
#include <errno.h>
#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <syslog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

#include "adapters/libvirt_hypervisor.h"
#include "adapters/posix_system.h"
#include "base/log.h"
#include "engine/transitions.h"
#include "flow/guard.h"

namespace poolshift {
namespace {

constexpr int kUsage = 2;
constexpr std::size_t kMaxLineBytes = 64 * 1024;
constexpr std::int64_t kRollbackMs = 5'000;
constexpr std::int64_t kFirstRetryMs = 100;
constexpr std::int64_t kLongestRetryMs = 5'000;
constexpr std::int64_t kUnreachableForMs = 3'600'000;
constexpr std::int64_t kFailingForMs = 60'000;
// A call of the one who died may still be on its way through libvirtd, and suspend the guest after we looked.
constexpr std::int64_t kLookAgainForMs = 2'000;
constexpr std::int64_t kLookAgainEveryMs = 100;

constexpr const char* kHelp =
    "Usage: poolshift-guardian\n\n"
    "Lets a guest run again when the process that suspended it does not. PoolShift starts it by itself and tells\n"
    "it on its standard input what to do; there is nothing to do with it by hand. See poolshift(8).\n\n"
    "  --version  print the version\n"
    "  --help     print this help\n";

// Lines of the standard input, and the signals that end a service.
class Input {
 public:
  enum class Event { line, end, signal, timeout };

  explicit Input(int signals) : signals_(signals) {}

  // Negative: no time limit.
  Event next(std::int64_t timeout_ms) {
    for (;;) {
      if (const auto newline = buffer_.find('\n'); newline != std::string::npos) {
        line_ = buffer_.substr(0, newline);
        buffer_.erase(0, newline + 1);
        return Event::line;
      }
      if (ended_) return Event::end;
      std::array<pollfd, 2> waited{pollfd{STDIN_FILENO, POLLIN, 0}, pollfd{signals_, POLLIN, 0}};
      const auto most = timeout_ms < 0 ? -1 : static_cast<int>(std::min<std::int64_t>(timeout_ms, 86'400'000));
      const int ready = ::poll(waited.data(), waited.size(), most);
      if (ready < 0 && errno == EINTR) continue;
      if (ready == 0) return Event::timeout;
      // "done" counts even when the signal came first.
      if (waited[0].revents != 0) {
        read_more();
        continue;
      }
      signalfd_siginfo ignored;
      if (::read(signals_, &ignored, sizeof ignored) > 0) return Event::signal;
    }
  }
  const std::string& line() const { return line_; }

 private:
  void read_more() {
    std::array<char, 4096> bytes;
    const ssize_t length = ::read(STDIN_FILENO, bytes.data(), bytes.size());
    if (length < 0 && errno == EINTR) return;
    ended_ = length <= 0 || buffer_.size() > kMaxLineBytes;
    if (length > 0) buffer_.append(bytes.data(), static_cast<std::size_t>(length));
  }

  const int signals_;
  std::string buffer_;
  std::string line_;
  bool ended_ = false;
};

void say(const std::string& text) {
  const auto line = text + "\n";
  (void)!::write(STDOUT_FILENO, line.data(), line.size());  // nobody may be there any more
}

class Guard {
 public:
  Guard(GuardOrder order, Hypervisor& hypervisor, System& system)
      : order_(std::move(order)), hypervisor_(hypervisor), system_(system) {}

  int watch(Input& input) {
    std::optional<std::int64_t> deadline_ms;  // of the pause
    bool stepped_in = false;
    for (;;) {
      std::int64_t timeout_ms = -1;
      if (deadline_ms && !stepped_in) timeout_ms = std::max<std::int64_t>(*deadline_ms - system_.monotonic_ms(), 0);
      switch (input.next(timeout_ms)) {
        case Input::Event::line:
          if (input.line() == "done") return 0;
          if (input.line() == "begin") deadline_ms = system_.monotonic_ms() + order_.max_pause_ms;
          break;
        case Input::Event::timeout:
          // Whoever hangs may go on later: stay until it ends.
          step_in(fmt::format("it was to be paused for {} ms at most", order_.max_pause_ms), 0);
          stepped_in = true;
          break;
        case Input::Event::end:
          if (deadline_ms) step_in("the process that suspended it has ended", kLookAgainForMs);
          return 0;
        case Input::Event::signal:
          if (deadline_ms) step_in("this process was told to end", kLookAgainForMs);
          return 0;
      }
    }
  }

 private:
  void step_in(const std::string& reason, std::int64_t look_again_for_ms) {
    say("acting");
    note(spdlog::level::warn, fmt::format("letting it run: {}", reason));
    let_run();
    const auto end_ms = system_.monotonic_ms() + look_again_for_ms;
    while (system_.monotonic_ms() < end_ms) {
      system_.sleep_ms(kLookAgainEveryMs);
      let_run();
    }
    note(spdlog::level::info, "done");
  }

  void let_run() {
    const auto began_ms = system_.monotonic_ms();
    std::int64_t wait_ms = kFirstRetryMs;
    for (bool noted = false;; noted = true) {
      const auto running = let_guest_run(hypervisor_, system_, order_, kRollbackMs);
      if (running) return;
      const auto& error = running.error();
      if (!noted) note(spdlog::level::err, error.message);
      const auto patience_ms = error.code == ErrorCode::unreachable ? kUnreachableForMs : kFailingForMs;
      if (system_.monotonic_ms() - began_ms > patience_ms) {
        note(spdlog::level::critical, fmt::format("gave up: {} {}", error.message, error.advice));
        return;
      }
      system_.sleep_ms(wait_ms);
      wait_ms = std::min(wait_ms * 2, kLongestRetryMs);
    }
  }

  void note(spdlog::level::level_enum level, const std::string& what) {
    const auto text =
        fmt::format("job {}: guardian of domain {}, disk {}: {}", order_.job_id, order_.domain_uuid, order_.disk, what);
    const LogFields about([this] {
      return LogFields::List{
          {"SYSLOG_IDENTIFIER", "poolshift-guardian"},    {"POOLSHIFT_JOB", order_.job_id},
          {"POOLSHIFT_DOMAIN_UUID", order_.domain_uuid},  {"POOLSHIFT_DISK", order_.disk},
          {"POOLSHIFT_TARGET", to_string(order_.target)}, {"POOLSHIFT_PHASE", std::string(name_of(Phase::pause))}};
    });
    log().log(level, "{}", text);
    // journald would have it twice.
    if (!order_.log_journald || !journald_is_there()) ::syslog(syslog_priority_of(level), "%s", text.c_str());
  }

  const GuardOrder order_;
  Hypervisor& hypervisor_;
  System& system_;
};

int run() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, number);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  Input input(::signalfd(-1, &signals, SFD_CLOEXEC));
  if (input.next(-1) != Input::Event::line) {
    say("failed: there is no order on the standard input");
    return kUsage;
  }
  auto order = parse_guard_order(input.line());
  if (!order) {
    say(fmt::format("failed: {}", order.error().message));
    return kUsage;
  }
  // From here on a child of init: whoever started us has nothing to wait for when we end.
  const pid_t child = ::fork();
  if (child < 0) {
    say("failed: cannot fork");
    return 1;
  }
  if (child > 0) return 0;
  (void)!::chdir("/");
  ::openlog("poolshift-guardian", LOG_PID, LOG_DAEMON);
  (void)open_log(order->log_file, "info", order->log_journald);  // without its log it works as well
  silence_libvirt_errors();
  const auto system = make_posix_system();
  const auto hypervisor = make_libvirt_hypervisor(order->connect_uri);
  if (const auto domain = hypervisor->find_domain(order->domain_uuid); !domain) {
    say(fmt::format("failed: {}", domain.error().message));
    return 1;
  }
  say("ready");
  return Guard(std::move(*order), *hypervisor, *system).watch(input);
}

}  // namespace
}  // namespace poolshift

int main(int argc, char** argv) {
  const std::string_view word = argc == 2 ? argv[1] : "";
  if (word == "--help") {
    std::fputs(poolshift::kHelp, stdout);
    return 0;
  }
  if (word == "--version") {
    std::puts("poolshift-guardian " POOLSHIFT_GUARDIAN_VERSION);
    return 0;
  }
  if (argc > 1 || ::isatty(STDIN_FILENO) != 0) {
    std::fputs("poolshift-guardian: it takes no arguments and is not started by hand; see --help\n", stderr);
    return poolshift::kUsage;
  }
  return poolshift::run();
}
