// The request, checked. Its JSON form is documented at poolshift_job_start() in poolshift.h.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/image_name.h"
#include "base/result.h"
#include "engine/job_record.h"

namespace poolshift {

inline constexpr std::size_t kMaxRequestBytes = 1024 * 1024;

enum class Engine { automatic, mirror, handover };

struct SwapRequest {
  std::string domain;  // name or UUID
  std::string disk;
  ImageName target;
  std::optional<ImageName> source;
  bool create = false;
  Engine engine = Engine::automatic;
  std::optional<Hydration> hydration;  // empty: offload where the layout allows it
  std::int64_t max_pause_ms = 3'000;
  std::uint64_t bandwidth_bytes_per_s = 0;
  SourceAfter source_after = SourceAfter::keep;
  std::optional<ClusterAccess> target_access;
  std::map<std::string, std::string> labels;
};

// `invalid` names the key and what was expected.
Result<SwapRequest> parse_request(std::string_view text);

// {"schema":1,"bandwidth_bytes_per_s":N}
Result<std::uint64_t> parse_settings(std::string_view text);

}  // namespace poolshift
