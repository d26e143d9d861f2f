#include "signals.h"

#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
#include <initializer_list>

namespace poolshift::cli {

namespace {

bool is_ignored(int number) {
  struct sigaction action {};
  return sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

}  // namespace

SignalWatch::SignalWatch() {
  for (int number : {SIGHUP, SIGPIPE, SIGTSTP, SIGTTOU}) std::signal(number, SIG_IGN);
  sigset_t watched;
  sigemptyset(&watched);
  for (int number : {SIGINT, SIGTERM}) {
    if (!is_ignored(number)) sigaddset(&watched, number);
  }
  // Without a descriptor the signals keep their default action: they end the command, and the journal has the
  // job.
  fd_ = signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
  if (fd_ >= 0) pthread_sigmask(SIG_BLOCK, &watched, nullptr);
}

SignalWatch::~SignalWatch() {
  if (fd_ >= 0) close(fd_);
}

bool SignalWatch::take() {
  signalfd_siginfo info{};
  return fd_ >= 0 && read(fd_, &info, sizeof info) == static_cast<ssize_t>(sizeof info);
}

void SignalWatch::wait(int other_fd, int timeout_ms) {
  pollfd fds[] = {{fd_, POLLIN, 0}, {other_fd, POLLIN, 0}};  // poll() skips negative ones
  poll(fds, 2, timeout_ms);
}

}  // namespace poolshift::cli
