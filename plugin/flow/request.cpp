#include "flow/request.h"

#include <fmt/core.h>

#include <limits>

#include "base/json_reader.h"

namespace poolshift {

namespace {

constexpr std::size_t kMaxImageNameBytes = 3 * kMaxNameBytes + 2;
constexpr std::size_t kMostLabels = 16;
constexpr std::size_t kMaxLabelBytes = 256;
constexpr std::uint64_t kLeastPauseMs = 500;
constexpr std::uint64_t kMostPauseMs = 60'000;
constexpr std::uint64_t kMaxBandwidth = std::numeric_limits<std::int64_t>::max();

ImageName image_name(JsonReader& reader, const std::string& key) {
  auto parsed = parse_image_name(reader.text(key, kMaxImageNameBytes));
  if (parsed) return *parsed;
  reader.fail(parsed.error());
  return {};
}

ClusterAccess cluster_access(JsonReader& parent) {
  JsonReader reader(parent.object("target_access"), "target_access");
  ClusterAccess access;
  access.mon_hosts = reader.texts("mon_hosts", 32, kMaxNameBytes);
  access.user = reader.text("user", kMaxNameBytes);
  access.secret_uuid = reader.text("secret_uuid", kMaxNameBytes);
  access.secret_usage = reader.text("secret_usage", kMaxNameBytes);
  access.conf_path = reader.text("ceph_conf", 4096);
  if (auto status = reader.finish(); !status) parent.fail(status.error());
  return access;
}

}  // namespace

Result<SwapRequest> parse_request(std::string_view text) {
  JsonReader reader(text, "request", kMaxRequestBytes);
  for (const auto* key : {"domain", "disk", "target"}) reader.require(key);
  SwapRequest request;
  request.domain = reader.text("domain", kMaxNameBytes);
  request.disk = reader.text("disk", kMaxNameBytes);
  if (request.domain.empty()) reader.fail("domain", "is empty", "Give the domain's name or UUID.");
  if (request.disk.empty()) reader.fail("disk", "is empty", "Give the disk's target name, for example vda.");
  if (reader.has("target")) request.target = image_name(reader, "target");
  if (reader.has("source")) request.source = image_name(reader, "source");
  request.create = reader.boolean("create", false);
  const auto engine = reader.one_of("engine", {"auto", "mirror", "handover"}, "auto");
  if (engine == "mirror") request.engine = Engine::mirror;
  if (engine == "handover") request.engine = Engine::handover;
  const auto hydrate = reader.one_of("hydrate", {"auto", "offload", "flatten"}, "auto");
  if (hydrate == "offload") request.hydration = Hydration::offload;
  if (hydrate == "flatten") request.hydration = Hydration::flatten;
  const auto max_pause_ms = reader.whole_number("max_pause_ms", kMostPauseMs, 3'000);
  if (max_pause_ms < kLeastPauseMs) {
    reader.fail("max_pause_ms", fmt::format("is {}", max_pause_ms),
                fmt::format("Give {} to {}.", kLeastPauseMs, kMostPauseMs));
  }
  request.max_pause_ms = static_cast<std::int64_t>(max_pause_ms);
  request.bandwidth_bytes_per_s = reader.whole_number("bandwidth_bytes_per_s", kMaxBandwidth, 0);
  if (reader.one_of("source_after", {"keep", "trash"}, "keep") == "trash") request.source_after = SourceAfter::trash;
  if (reader.has("target_access")) request.target_access = cluster_access(reader);
  request.labels = reader.labels("labels", kMostLabels, kMaxLabelBytes);
  POOLSHIFT_TRY(reader.finish());
  return request;
}

Result<std::uint64_t> parse_settings(std::string_view text) {
  JsonReader reader(text, "settings", kMaxRequestBytes);
  reader.require("bandwidth_bytes_per_s");
  const auto bandwidth = reader.whole_number("bandwidth_bytes_per_s", kMaxBandwidth, 0);
  POOLSHIFT_TRY(reader.finish());
  return bandwidth;
}

}  // namespace poolshift
