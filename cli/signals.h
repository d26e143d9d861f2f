// Signals as something to poll, so that no thread of the library is ever interrupted by one.
#pragma once

namespace poolshift::cli {

// SIGINT and SIGTERM become readable on fd(); those that the caller had ignored stay ignored, as a shell
// wants it of its background jobs. SIGHUP, SIGPIPE and SIGTSTP are ignored: a closed terminal, a reader that
// went away or Ctrl-Z must not leave a swap without anybody who follows it. Make it before the first thread,
// and once.
class SignalWatch {
 public:
  SignalWatch();
  ~SignalWatch();
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

  int fd() const { return fd_; }
  // Takes one pending signal; false when there is none.
  bool take();
  // Waits until a signal is pending, `other_fd` (-1: none) is readable or the time is up.
  void wait(int other_fd, int timeout_ms);

 private:
  int fd_ = -1;
};

}  // namespace poolshift::cli
