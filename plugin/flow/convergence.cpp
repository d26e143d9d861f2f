#include "flow/convergence.h"

#include <algorithm>

namespace poolshift {

namespace {
constexpr std::int64_t kWindowMs = 3'000;
constexpr std::uint64_t kLeastLimit = 32 * 1024;  // bytes/s: eight 4 KiB writes a second
// A copy converges when of so many bytes copied at least one is not for a new write of the guest.
constexpr std::uint64_t kLeastGain = 10;

std::uint64_t less(std::uint64_t from, std::uint64_t what) { return from - std::min(from, what); }
}  // namespace

std::optional<std::uint64_t> Convergence::look(std::int64_t now_ms, const MirrorProgress& progress,
                                               std::uint64_t guest_written_bytes) {
  if (started_ && now_ms - window_began_ms_ < kWindowMs) return std::nullopt;
  const auto remaining = less(progress.total_bytes, progress.copied_bytes);
  const auto gained = less(window_remaining_bytes_, remaining);
  const auto copied = less(progress.copied_bytes, window_copied_bytes_);
  const auto written = less(guest_written_bytes, window_written_bytes_);
  const auto window_ms = static_cast<std::uint64_t>(now_ms - window_began_ms_);
  const bool judge = started_;
  started_ = true;
  window_began_ms_ = now_ms;
  window_remaining_bytes_ = remaining;
  window_copied_bytes_ = progress.copied_bytes;
  window_written_bytes_ = guest_written_bytes;
  // A copy that stands still (a full pool, OSDs that are down) is not helped by a slower guest.
  if (!judge || copied == 0 || written == 0 || gained >= copied / kLeastGain) return std::nullopt;
  const auto rate = written * 1000 / window_ms;
  const auto from = limit_bytes_per_s_ == 0 ? rate : std::min(rate, limit_bytes_per_s_);
  const auto limit = std::max(from / 2, kLeastLimit);
  if (limit == limit_bytes_per_s_) return std::nullopt;
  limit_bytes_per_s_ = limit;
  return limit;
}

WriteLimit lowered(const WriteLimit& before, std::uint64_t bytes_per_s) {
  WriteLimit after = before;
  std::uint64_t& limit = before.total_bytes_per_s != 0 ? after.total_bytes_per_s : after.write_bytes_per_s;
  limit = limit == 0 ? bytes_per_s : std::min(limit, bytes_per_s);
  return after;
}

}  // namespace poolshift
