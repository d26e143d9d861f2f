#include "flow/guard.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "base/json_reader.h"

namespace poolshift {

namespace {

constexpr std::size_t kMaxOrderBytes = 64 * 1024;
constexpr std::size_t kMaxTextBytes = 4096;
constexpr std::uint64_t kMaxPauseMs = 24 * 3'600'000;
constexpr std::int64_t kLookEveryMs = 10;

// One step towards a disk without our overlay. What it asked for is looked for in the XML the next time.
Status take_off_overlay(Hypervisor& hypervisor, const GuardOrder& order, const Disk& disk) {
  if (!disk.mirror) return hypervisor.commit_overlay(order.domain_uuid, order.disk);
  if (disk.mirror->pivoting || disk.mirror->image != order.target) return {};  // to be waited for; another's: too
  return hypervisor.cancel_mirror(order.domain_uuid, order.disk);
}

Status resume(Hypervisor& hypervisor, const GuardOrder& order) {
  if (!order.resume) return {};
  return hypervisor.resume(order.domain_uuid);
}

}  // namespace

std::string to_text(const GuardOrder& order) {
  return nlohmann::json{{"schema", 1},
                        {"job_id", order.job_id},
                        {"connect_uri", order.connect_uri},
                        {"domain_uuid", order.domain_uuid},
                        {"disk", order.disk},
                        {"target", to_string(order.target)},
                        {"overlay_path", order.overlay_path},
                        {"resume", order.resume},
                        {"max_pause_ms", order.max_pause_ms},
                        {"log_file", order.log_file},
                        {"log_journald", order.log_journald}}
      .dump();
}

Result<GuardOrder> parse_guard_order(std::string_view text) {
  JsonReader reader(text, "guardian's order", kMaxOrderBytes);
  for (const char* key : {"domain_uuid", "disk", "target", "overlay_path"}) reader.require(key);
  GuardOrder order;
  order.job_id = reader.text("job_id", kMaxTextBytes);
  order.connect_uri = reader.text("connect_uri", kMaxTextBytes);
  order.domain_uuid = reader.text("domain_uuid", kMaxTextBytes);
  order.disk = reader.text("disk", kMaxTextBytes);
  const auto target = reader.text("target", kMaxTextBytes);
  order.overlay_path = reader.text("overlay_path", kMaxTextBytes);
  order.resume = reader.boolean("resume", order.resume);
  order.max_pause_ms = static_cast<std::int64_t>(
      reader.whole_number("max_pause_ms", kMaxPauseMs, static_cast<std::uint64_t>(order.max_pause_ms)));
  order.log_file = reader.text("log_file", kMaxTextBytes);
  order.log_journald = reader.boolean("log_journald", false);
  auto image = parse_image_name(target);
  if (image) {
    order.target = std::move(*image);
  } else {
    reader.fail("target", fmt::format("is '{}'", target), "Give POOL[/NAMESPACE]/IMAGE.");
  }
  for (const auto& [key, value] : {std::pair{"domain_uuid", &order.domain_uuid}, std::pair{"disk", &order.disk},
                                   std::pair{"overlay_path", &order.overlay_path}}) {
    if (value->empty()) reader.fail(key, "is empty", "Give a value.");
  }
  POOLSHIFT_TRY(reader.finish());
  return order;
}

Status let_guest_run(Hypervisor& hypervisor, System& system, const GuardOrder& order, std::int64_t rollback_ms) {
  const auto deadline_ms = system.monotonic_ms() + rollback_ms;
  Status failed;
  for (;;) {
    const auto domain = hypervisor.find_domain(order.domain_uuid);
    if (!domain && domain.error().code == ErrorCode::not_found) return {};
    if (!domain) {
      // What is not known cannot be taken off; the guest goes first.
      auto resumed = resume(hypervisor, order);
      return resumed ? Status(domain.error()) : resumed;
    }
    if (!is_active(*domain)) return {};
    const auto* disk = domain->disk(order.disk);
    if (disk == nullptr || disk->file_path != order.overlay_path) {
      return domain->state == DomainState::paused ? resume(hypervisor, order) : Status();
    }
    if (system.monotonic_ms() >= deadline_ms) break;
    if (const auto step = take_off_overlay(hypervisor, order, *disk); !step) failed = step;
    system.sleep_ms(kLookEveryMs);
  }
  POOLSHIFT_TRY(resume(hypervisor, order));
  if (!failed) return failed;
  return Error{ErrorCode::failed,
               fmt::format("disk '{}' of domain '{}' is still on the overlay '{}'", order.disk, order.domain_uuid,
                           order.overlay_path),
               "Run 'poolshift recover', or 'virsh blockcommit DOMAIN DISK --active --pivot'."};
}

}  // namespace poolshift
