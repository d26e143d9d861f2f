// How many objects the OSDs may copy at a time, so that the guest is not starved: decided from its own write latency.
#pragma once

#include <cstdint>
#include <optional>

#include "ports/hypervisor.h"

namespace poolshift {

class Pacing {
 public:
  // `usual_write_us`: what a write of the guest took before; 0 when it did not write.
  explicit Pacing(double usual_write_us);

  // Told after each batch; what the next one may have in flight.
  unsigned look(std::int64_t now_ms, const DiskCounters& counters);
  unsigned in_flight() const { return in_flight_; }

 private:
  double usual_write_us_;
  unsigned in_flight_;
  std::optional<DiskCounters> window_;
  std::int64_t window_began_ms_ = 0;
};

// Mean time of the writes between two looks, microseconds; 0 when there were none.
double mean_write_us(const DiskCounters& before, const DiskCounters& after);

}  // namespace poolshift
