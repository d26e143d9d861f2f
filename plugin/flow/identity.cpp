#include "flow/identity.h"

#include <fmt/core.h>

#include "flow/recover.h"

namespace poolshift {

namespace {
constexpr std::int64_t kLookEveryMs = 100;
}

Status expect_id(Cluster& cluster, const ImageName& name, const std::string& id) {
  if (id.empty()) return {};
  const auto image = cluster.image(name);
  if (!image) return image.error();
  if (image->id == id) return {};
  return Error{
      ErrorCode::failed,
      fmt::format("image {} is another one now: its id is {}, the job knows {}", to_string(name), image->id, id),
      "Nothing was done to it. Find out who renamed or made it."};
}

Status prove_unused(Swap& swap, Cluster& cluster, const ImageName& name) {
  const auto deadline_ms = swap.ports.system.monotonic_ms() + kWatcherPatienceMs;
  for (;;) {
    const auto domains = swap.ports.hypervisor.list_domains();
    if (!domains) return domains.error();
    for (const auto& domain : *domains) {
      for (const auto* disks : {&domain.disks, &domain.persistent_disks}) {
        for (const auto& disk : *disks) {
          if (disk.image != name && !(disk.mirror && disk.mirror->image == name)) continue;
          return Error{ErrorCode::busy,
                       fmt::format("domain '{}' names {} as disk '{}'", domain.name, to_string(name), disk.target),
                       "Nothing was moved; find out why it is named there."};
        }
      }
    }
    const auto image = cluster.image(name);
    if (!image) return image.error();
    if (image->watchers.empty()) return {};
    if (swap.ports.system.monotonic_ms() >= deadline_ms) {
      return Error{ErrorCode::busy,
                   fmt::format("image {} is still open in client {}", to_string(name), image->watchers.front()),
                   "Find out who has it open and close it there."};
    }
    swap.show_progress({"waiting until an image is closed", 0, 0, 0, -1});
    POOLSHIFT_TRY(swap.wait_ms(kLookEveryMs));
  }
}

}  // namespace poolshift
