// poolshift-qemu-hook(8). libvirt calls it as NAME OPERATION SUB-OPERATION EXTRA, with the domain's XML on standard
// input, for every domain of the host, and waits: so it must not call libvirt, and has to be quick.
#include <errno.h>
#include <fmt/core.h>
#include <signal.h>
#include <stdlib.h>
#include <syslog.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <exception>
#include <string>
#include <string_view>

#include "adapters/domain_xml.h"
#include "adapters/posix_system.h"
#include "base/version.h"
#include "hook.h"
#include "policy.h"

namespace poolshift::hook {
namespace {

constexpr int kRefused = 1;
constexpr int kUsage = 2;
constexpr unsigned kMostSeconds = 10;  // then it gives up, and the domain starts
constexpr const char* kStateFolder = "/var/lib/poolshift";

constexpr const char* kHelp =
    "Usage: poolshift-qemu-hook NAME OPERATION SUB-OPERATION EXTRA\n\n"
    "The qemu hook of libvirt, which calls it with a domain's XML on the standard input. Keeps a domain from starting\n"
    "on an image that a swap has left behind, and asks for swaps by the domain's metadata or the policy.\n\n"
    "  --version  print the version\n"
    "  --help     print this help\n\n"
    "Exit codes: 0 go on; 1 the domain must not start, and stderr says why; 2 usage. See poolshift-qemu-hook(8).\n";

void write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

extern "C" void go_on(int signal_number) {
  constexpr std::string_view kSlow = "poolshift-qemu-hook: gave up, it took too long; the domain was not looked at\n";
  constexpr std::string_view kCrashed = "poolshift-qemu-hook: crashed; the domain was not looked at\n";
  write_all(STDERR_FILENO, signal_number == SIGALRM ? kSlow : kCrashed);
  ::_exit(0);
}

// Neither a bug nor a file system that hangs keeps a domain from starting.
void fail_open() {
  static std::array<char, 64 * 1024> stack;  // the handler's own: the fault may be that the other is full
  stack_t alternative{};
  alternative.ss_sp = stack.data();
  alternative.ss_size = stack.size();
  ::sigaltstack(&alternative, nullptr);
  struct sigaction action {};
  action.sa_handler = go_on;
  action.sa_flags = SA_ONSTACK;
  for (const int number : {SIGALRM, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) ::sigaction(number, &action, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  ::alarm(kMostSeconds);
}

Result<std::string> read_standard_input() {
  std::string text;
  std::array<char, 64 * 1024> buffer;
  for (;;) {
    const ssize_t length = ::read(STDIN_FILENO, buffer.data(), buffer.size());
    if (length < 0 && errno == EINTR) continue;
    if (length < 0) {
      return Error{ErrorCode::failed, fmt::format("The domain's XML cannot be read: {}", std::strerror(errno)),
                   "Check what calls the hook."};
    }
    if (length == 0) return text;
    text.append(buffer.data(), static_cast<std::size_t>(length));
    if (text.size() > kMaxDomainXmlBytes) {
      return Error{ErrorCode::failed, fmt::format("The domain's XML is longer than {} bytes", kMaxDomainXmlBytes),
                   "Check what wrote this XML."};
    }
  }
}

// libvirt passes none of these variables on: they are for tests and for people.
std::string folder_from(const char* variable, const char* otherwise) {
  const char* value = ::getenv(variable);
  return value != nullptr && value[0] == '/' ? value : otherwise;
}

int priority_of(LogLine::Level level) {
  switch (level) {
    case LogLine::Level::info: return LOG_NOTICE;
    case LogLine::Level::warning: return LOG_WARNING;
    case LogLine::Level::error: return LOG_ERR;
  }
  return LOG_ERR;
}

void log(const std::vector<LogLine>& lines, std::string_view domain, bool on_stderr_too) {
  if (lines.empty()) return;
  ::openlog("poolshift-qemu-hook", LOG_PID, LOG_DAEMON);
  for (const auto& line : lines) {
    const auto text = fmt::format("domain '{}': {}", domain, line.text);
    ::syslog(priority_of(line.level), "%s", text.c_str());
    if (on_stderr_too) write_all(STDERR_FILENO, text + "\n");
  }
}

int run(std::string_view domain, const std::string& operation) {
  const auto system = make_posix_system();
  const HookFolders folders{folder_from("POOLSHIFT_STATE_DIR", kStateFolder),
                            folder_from("POOLSHIFT_POLICY_DIR", kPolicyFolder)};
  const auto given = answer(*system, folders, operation, read_standard_input);
  // When the hook refuses, libvirt shows all of stderr: then there is one sentence.
  log(given.log, domain, !given.refused);
  if (given.refused) {
    write_all(STDERR_FILENO, given.complaint + "\n");
    return kRefused;
  }
  write_all(STDOUT_FILENO, given.xml);
  return 0;
}

int main_of(int argc, char** argv) {
  const std::string_view first = argc > 1 ? argv[1] : "";
  if (argc == 2 && (first == "--help" || first == "-h")) {
    write_all(STDOUT_FILENO, kHelp);
    return 0;
  }
  if (argc == 2 && first == "--version") {
    write_all(STDOUT_FILENO, fmt::format("poolshift-qemu-hook {}\n", kVersion));
    return 0;
  }
  if (argc < 3) {
    write_all(STDERR_FILENO, kHelp);
    return kUsage;
  }
  fail_open();
  try {
    return run(argv[1], argv[2]);
  } catch (const std::exception& error) {
    write_all(STDERR_FILENO, fmt::format("poolshift-qemu-hook: the domain was not looked at: {}\n", error.what()));
    return 0;
  }
}

}  // namespace
}  // namespace poolshift::hook

int main(int argc, char** argv) {
  // libvirt kills a running guest whose hook fails when libvirtd is started again.
  if (argc > 2 && std::strcmp(argv[2], "reconnect") == 0) return 0;
  return poolshift::hook::main_of(argc, argv);
}
