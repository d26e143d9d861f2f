// Decides when a copy does not converge because the guest writes faster than it is copied, and how far the guest's
// writes must be limited for the last part.
#pragma once

#include <cstdint>
#include <optional>

#include "ports/hypervisor.h"

namespace poolshift {

class Convergence {
 public:
  // Told at each look. Returns a limit in bytes/s when it is time to set one or a lower one.
  std::optional<std::uint64_t> look(std::int64_t now_ms, const MirrorProgress& progress,
                                    std::uint64_t guest_written_bytes);

 private:
  bool started_ = false;
  std::int64_t window_began_ms_ = 0;
  std::uint64_t window_remaining_bytes_ = 0;
  std::uint64_t window_copied_bytes_ = 0;
  std::uint64_t window_written_bytes_ = 0;
  std::uint64_t limit_bytes_per_s_ = 0;  // 0: none set yet
};

// `before` with the guest's writes limited to `bytes_per_s`, in the form that libvirt accepts.
WriteLimit lowered(const WriteLimit& before, std::uint64_t bytes_per_s);

}  // namespace poolshift
