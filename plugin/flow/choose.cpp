#include "flow/choose.h"

#include <fmt/core.h>

namespace poolshift {

namespace {

constexpr std::uint64_t kMiB = 1024 * 1024;
// A handover waits twice for the monitors and pauses the guest, whatever the size. A copy of less than this is over by
// the time that this would have taken.
constexpr std::uint64_t kShortCopyBytes = 1792 * kMiB;
// Before a mirror copies it zeroes the target, which takes as long as copying one part in so many of its size.
constexpr std::uint64_t kZeroedPerCopied = 500;
// To rebuild the object map takes as long as copying one part in so many of the image's size.
constexpr std::uint64_t kRebuiltPerCopied = 256;

std::string words_for(std::uint64_t bytes) {
  return bytes < 1024 * kMiB ? fmt::format("{} MiB", bytes / kMiB)
                             : fmt::format("{:.1f} GiB", static_cast<double>(bytes / kMiB) / 1024);
}

}  // namespace

std::string why_mirror(std::uint64_t used_bytes, std::uint64_t size_bytes) {
  if (used_bytes + size_bytes / kZeroedPerCopied >= kShortCopyBytes) return {};
  return fmt::format("{} are copied sooner than a handover would be done", words_for(used_bytes));
}

bool rebuild_is_shorter(std::uint64_t used_bytes, std::uint64_t size_bytes) {
  return used_bytes >= size_bytes / kRebuiltPerCopied;
}

}  // namespace poolshift
