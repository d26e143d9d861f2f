#include "flow/pacing.h"

#include <algorithm>

namespace poolshift {

namespace {
constexpr std::int64_t kWindowMs = 250;
constexpr unsigned kMostInFlight = 16;
constexpr unsigned kFirstInFlight = 6;  // of a guest that writes
// Slower than this helps the guest no more: what it suffers from then is that objects are not there yet.
constexpr unsigned kLeastInFlight = 3;
// A guest that writes gets this many times its usual latency before it is given way, but never less than kLeastBoundUs:
// each first write to an object that is not there yet has to fetch it.
constexpr double kSlowdown = 3;
constexpr double kLeastBoundUs = 20'000;
}  // namespace

double mean_write_us(const DiskCounters& before, const DiskCounters& after) {
  const auto writes = after.write_requests - before.write_requests;
  if (writes == 0) return 0;
  return static_cast<double>(after.write_time_ns - before.write_time_ns) / 1'000 / static_cast<double>(writes);
}

Pacing::Pacing(double usual_write_us)
    : usual_write_us_(usual_write_us), in_flight_(usual_write_us == 0 ? kMostInFlight : kFirstInFlight) {}

unsigned Pacing::look(std::int64_t now_ms, const DiskCounters& counters) {
  if (!window_) {
    window_ = counters;
    window_began_ms_ = now_ms;
    return in_flight_;
  }
  if (now_ms - window_began_ms_ < kWindowMs) return in_flight_;
  const double write_us = mean_write_us(*window_, counters);
  const bool suffers = write_us > std::max(kSlowdown * usual_write_us_, kLeastBoundUs);
  if (suffers) {
    in_flight_ = std::max(in_flight_ / 2, kLeastInFlight);
  } else {
    in_flight_ = std::min(write_us == 0 ? in_flight_ * 2 : in_flight_ + 1, kMostInFlight);
  }
  window_ = counters;
  window_began_ms_ = now_ms;
  return in_flight_;
}

}  // namespace poolshift
