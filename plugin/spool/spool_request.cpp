#include "spool/spool_request.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <limits>
#include <set>

#include "base/json_reader.h"
#include "flow/request.h"

namespace poolshift {

using nlohmann::json;

namespace {

constexpr std::size_t kMaxPolicyBytes = 128;
constexpr std::size_t kMaxDiskBytes = 32;
constexpr int kMinutesPerDay = 24 * 60;
constexpr const char* kWindowAdvice = "Give two different times as HH:MM-HH:MM, for example 22:00-06:00.";

constexpr std::array kOrigins = {Origin::metadata, Origin::policy, Origin::drain, Origin::operator_};

bool is_uuid(const std::string& text) {
  if (text.size() != 36) return false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    const bool digit = (text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f');
    if (dash ? text[i] != '-' : !digit) return false;
  }
  return true;
}

// It becomes part of a file's name.
bool is_disk_name(const std::string& text) {
  return !text.empty() && text.size() <= kMaxDiskBytes &&
         text.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") ==
             std::string::npos;
}

std::optional<int> minute_of(std::string_view text) {
  if (text.size() != 5 || text[2] != ':') return std::nullopt;
  int digits[4] = {};
  int count = 0;
  for (const std::size_t at : {0U, 1U, 3U, 4U}) {
    if (text[at] < '0' || text[at] > '9') return std::nullopt;
    digits[count++] = text[at] - '0';
  }
  const int hour = digits[0] * 10 + digits[1];
  const int minute = digits[2] * 10 + digits[3];
  if (hour > 23 || minute > 59) return std::nullopt;
  return hour * 60 + minute;
}

std::string text_of(const Window& window) {
  return fmt::format("{:02}:{:02}-{:02}:{:02}", window.from_minute / 60, window.from_minute % 60, window.to_minute / 60,
                     window.to_minute % 60);
}

void read_domain(JsonReader& parent, SpoolRequest& request) {
  JsonReader reader(parent.object("domain"), "domain");
  request.domain_uuid = reader.text("uuid", kMaxNameBytes);
  request.domain_name = reader.text("name", kMaxNameBytes);
  if (!is_uuid(request.domain_uuid)) {
    reader.fail("uuid", fmt::format("is '{}'", request.domain_uuid), "Give the domain's UUID in lower case.");
  }
  if (request.domain_name.empty()) reader.fail("name", "is empty", "Give the domain's name.");
  if (auto status = reader.finish(); !status) parent.fail(status.error());
}

void read_source(JsonReader& parent, SpoolRequest& request) {
  JsonReader reader(parent.object("source"), "source");
  request.source.pool = reader.text("pool", kMaxNameBytes);
  request.source.rbd_namespace = reader.text("namespace", kMaxNameBytes);
  request.source.image = reader.text("image", kMaxNameBytes);
  const auto parsed = parse_image_name(to_string(request.source));
  if (!parsed) {
    reader.fail(parsed.error());
  } else if (*parsed != request.source) {
    reader.fail("pool", fmt::format("or another one of the source holds a '/' ('{}')", to_string(request.source)),
                "Give pool, namespace and image apart.");
  }
  if (auto status = reader.finish(); !status) parent.fail(status.error());
}

void read_swap(JsonReader& parent, SpoolRequest& request) {
  static const std::set<std::string> kAllowed = {
      "target", "create", "engine", "hydrate", "max_pause_ms", "bandwidth_bytes_per_s", "source_after"};
  request.swap = parent.object("swap");
  for (const auto& [key, value] : request.swap.items()) {
    if (!kAllowed.contains(key)) {
      parent.fail("swap", fmt::format("has the key '{}', which a request in the spool may not have", key),
                  "Leave it out.");
      return;
    }
  }
}

}  // namespace

std::string_view name_of(Origin origin) {
  switch (origin) {
    case Origin::metadata: return "metadata";
    case Origin::policy: return "policy";
    case Origin::drain: return "drain";
    case Origin::operator_: return "operator";
  }
  return "operator";
}

Result<Window> parse_window(std::string_view text) {
  const Error no_window{ErrorCode::invalid, fmt::format("'{}' is not a time window", text), kWindowAdvice};
  if (text.size() != 11 || text[5] != '-') return no_window;
  const auto from = minute_of(text.substr(0, 5));
  const auto to = minute_of(text.substr(6));
  if (!from || !to || *from == *to) return no_window;
  return Window{*from, *to};
}

bool is_open(const Window& window, int minute_of_day) {
  const auto since = [&](int minute) { return (minute - window.from_minute + kMinutesPerDay) % kMinutesPerDay; };
  return since(minute_of_day) < since(window.to_minute);
}

bool is_request_id(std::string_view text) {
  return text.size() == 12 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

Result<SpoolRequest> parse_spool_request(std::string_view text) {
  JsonReader reader(text, "spool request", kMaxSpoolRequestBytes);
  for (const auto* key : {"id", "created_ms", "origin", "domain", "disk", "source", "swap"}) reader.require(key);
  SpoolRequest request;
  request.id = reader.text("id", 64);
  if (!is_request_id(request.id)) {
    reader.fail("id", fmt::format("is '{}'", request.id), "Give 12 lower-case hexadecimal digits.");
  }
  request.created_ms =
      static_cast<std::int64_t>(reader.whole_number("created_ms", std::numeric_limits<std::int64_t>::max(), 0));
  const auto origin = reader.one_of("origin", {"metadata", "policy", "drain", "operator"}, "operator");
  request.origin =
      *std::find_if(kOrigins.begin(), kOrigins.end(), [&](Origin each) { return name_of(each) == origin; });
  request.policy = reader.text("policy", kMaxPolicyBytes);
  if (reader.has("domain")) read_domain(reader, request);
  request.disk = reader.text("disk", kMaxNameBytes);
  if (!is_disk_name(request.disk)) {
    reader.fail("disk", fmt::format("is '{}'", request.disk), "Give the disk's target name, for example vda.");
  }
  if (reader.has("source")) read_source(reader, request);
  if (reader.has("swap")) read_swap(reader, request);
  if (const auto window = reader.text("window", 32); !window.empty()) {
    if (const auto parsed = parse_window(window)) {
      request.window = *parsed;
    } else {
      reader.fail("window", fmt::format("is '{}'", window), kWindowAdvice);
    }
  }
  request.at_most = static_cast<unsigned>(reader.whole_number("at_most", kMostAtOnce, 0));
  POOLSHIFT_TRY(reader.finish());
  POOLSHIFT_TRY(parse_request(swap_request_of(request).dump(-1, ' ', false, json::error_handler_t::replace)));
  return request;
}

json to_json(const SpoolRequest& request) {
  json out = {
      {"schema", 1},
      {"id", request.id},
      {"created_ms", static_cast<std::uint64_t>(std::max<std::int64_t>(request.created_ms, 0))},
      {"origin", name_of(request.origin)},
      {"domain", {{"uuid", request.domain_uuid}, {"name", request.domain_name}}},
      {"disk", request.disk},
      {"source",
       {{"pool", request.source.pool}, {"namespace", request.source.rbd_namespace}, {"image", request.source.image}}},
      {"swap", request.swap}};
  if (!request.policy.empty()) out["policy"] = request.policy;
  if (request.window) out["window"] = text_of(*request.window);
  if (request.at_most != 0) out["at_most"] = request.at_most;
  return out;
}

json swap_request_of(const SpoolRequest& request) {
  json out = request.swap;
  out["schema"] = 1;
  out["domain"] = request.domain_uuid;
  out["disk"] = request.disk;
  out["source"] = to_string(request.source);
  out["labels"] = {{kRequestLabel, request.id}, {"origin", name_of(request.origin)}};
  if (!request.policy.empty()) out["labels"]["policy"] = request.policy;
  return out;
}

std::string disk_key(const SpoolRequest& request) { return request.domain_uuid + "." + request.disk; }

}  // namespace poolshift
