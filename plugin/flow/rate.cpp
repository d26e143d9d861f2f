#include "flow/rate.h"

#include <algorithm>

#include "engine/swap.h"

namespace poolshift {

namespace {
// poolshift.h promises that what is asked for takes effect within a second.
constexpr std::int64_t kLookEveryMs = 250;
}  // namespace

Result<std::uint64_t> Rate::wanted() const { return swap_.wanted_bandwidth(); }

Status Rate::tell_qemu() {
  const auto bytes_per_s = wanted();
  if (!bytes_per_s) return bytes_per_s.error();
  if (told_ == *bytes_per_s) return {};
  const auto& record = swap_.record;
  POOLSHIFT_TRY(swap_.ports.hypervisor.set_mirror_bandwidth(record.domain_uuid, record.disk, *bytes_per_s));
  told_ = *bytes_per_s;
  return {};
}

Status Rate::hold_back(std::uint64_t bytes, std::int64_t began_ms, const std::function<Status()>& stop) {
  auto& system = swap_.ports.system;
  auto owed_bytes = static_cast<double>(bytes);
  for (auto paid_until_ms = began_ms;;) {
    const auto bytes_per_s = wanted();
    if (!bytes_per_s) return bytes_per_s.error();
    if (*bytes_per_s == 0) return swap_.wait_ms(0);
    const auto bytes_per_ms = static_cast<double>(*bytes_per_s) / 1'000;
    const auto now_ms = system.monotonic_ms();
    owed_bytes -= bytes_per_ms * static_cast<double>(now_ms - paid_until_ms);
    paid_until_ms = now_ms;
    if (owed_bytes <= 0) return swap_.wait_ms(0);
    const auto rest_ms = std::min(owed_bytes / bytes_per_ms, static_cast<double>(kLookEveryMs));
    POOLSHIFT_TRY(swap_.wait_ms(std::max<std::int64_t>(static_cast<std::int64_t>(rest_ms), 1)));
    POOLSHIFT_TRY(stop());
  }
}

}  // namespace poolshift
