// A request in the spool: a swap that the worker is to make later. A file each, one JSON object; its keys are
// documented in poolshift-journal(5). Needs neither libvirt nor Ceph: the qemu hook writes them too.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/image_name.h"
#include "base/result.h"

namespace poolshift {

inline constexpr std::size_t kMaxSpoolRequestBytes = 64 * 1024;
inline constexpr unsigned kMostAtOnce = 1000;  // of SpoolRequest::at_most

enum class Origin { metadata, policy, drain, operator_ };  // who asked for it
std::string_view name_of(Origin origin);

// "22:00-06:00", in local time: from the first minute on, up to and not including the last. May go over midnight.
struct Window {
  int from_minute = 0;  // of the day
  int to_minute = 0;
};
// `invalid` when it is not HH:MM-HH:MM, or both are the same.
Result<Window> parse_window(std::string_view text);
bool is_open(const Window& window, int minute_of_day);

struct SpoolRequest {
  std::string id;               // 12 lower-case hexadecimal digits; Spool::submit() gives one
  std::int64_t created_ms = 0;  // since the epoch; likewise
  Origin origin = Origin::operator_;
  std::string policy;  // name of the rule that asked for it; may be empty
  std::string domain_uuid;
  std::string domain_name;
  std::string disk;  // "vda"
  ImageName source;  // what the disk was on when it was asked for
  // The rest of what poolshift_job_start() takes: "target" (required), "create", "engine", "hydrate", "max_pause_ms",
  // "bandwidth_bytes_per_s", "source_after". Nothing here names a file or a way to the cluster.
  nlohmann::json swap = nlohmann::json::object();
  std::optional<Window> window;  // when it may be started; empty: at any time
  unsigned at_most = 0;          // so many of this origin and rule at once; 0: as many as the worker's own limit
};

// `invalid` names the key and what was expected. Everything is checked, the swap included: what passes is refused later
// only for what the domain and the cluster are.
Result<SpoolRequest> parse_spool_request(std::string_view text);
nlohmann::json to_json(const SpoolRequest& request);

// What poolshift_job_start() is given: the domain by its UUID, "source" so that a disk that is on another image by then
// is refused, and the labels by which a worker finds the job of a request again.
nlohmann::json swap_request_of(const SpoolRequest& request);
inline constexpr const char* kRequestLabel = "request";

// Two requests with the same key are about the same disk.
std::string disk_key(const SpoolRequest& request);

bool is_request_id(std::string_view text);

}  // namespace poolshift
