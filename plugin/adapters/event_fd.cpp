#include "adapters/event_fd.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

namespace poolshift {

namespace {

class EventFd : public DoneSignal {
 public:
  EventFd() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
  ~EventFd() override { close(fd_); }
  EventFd(const EventFd&) = delete;
  EventFd& operator=(const EventFd&) = delete;

  void set() override {
    const std::uint64_t one = 1;
    (void)!write(fd_, &one, sizeof one);  // can only fail when it is set already
  }

  bool wait_ms(int timeout_ms) override {
    pollfd waited{fd_, POLLIN, 0};
    int ready = 0;
    do {
      ready = poll(&waited, 1, timeout_ms);
    } while (ready < 0 && errno == EINTR && timeout_ms < 0);
    return ready == 1;
  }

  int fd() const override { return fd_; }

 private:
  int fd_;
};

}  // namespace

std::unique_ptr<DoneSignal> make_event_fd() { return std::make_unique<EventFd>(); }

}  // namespace poolshift
