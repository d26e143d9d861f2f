// A guest that we suspended is never left so. This is what brings it back: called by the swap itself, by `recover`, and
// by the guardian, a process of its own (guardian/main.cpp) that is started before the guest is suspended and outlives
// whoever suspended it.
#pragma once

#include <cstdint>
#include <string>

#include "base/image_name.h"
#include "base/result.h"
#include "ports/hypervisor.h"
#include "ports/system.h"

namespace poolshift {

// What the guardian is told, as one line of JSON on its standard input.
struct GuardOrder {
  std::string job_id;
  std::string connect_uri;
  std::string domain_uuid;
  std::string disk;
  ImageName target;
  std::string overlay_path;
  bool resume = true;  // the guest ran before
  std::int64_t max_pause_ms = 3'000;
  std::string log_file;  // empty: none
  bool log_journald = false;
};

std::string to_text(const GuardOrder& order);
// `invalid` names the key.
Result<GuardOrder> parse_guard_order(std::string_view text);

// Takes the overlay off the disk when it is there (ending a copy of ours that has not switched), then lets the guest
// run if it did before. The overlay holds nothing as long as the guest was paused; if it does, that goes to the source.
// The guest is resumed in any case, at the latest after `rollback_ms`. Ok when there is nothing to do; `unreachable`
// when libvirtd is away.
Status let_guest_run(Hypervisor& hypervisor, System& system, const GuardOrder& order, std::int64_t rollback_ms);

}  // namespace poolshift
