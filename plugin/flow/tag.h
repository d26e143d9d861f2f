// The tag in an image's metadata that says to which job it belongs: the difference between "exists" and "is ours".
#pragma once

#include <string>
#include <string_view>

#include "ports/storage.h"

namespace poolshift {

inline constexpr const char* kJobKey = "poolshift.job";

// An image's own value of librbd's option; set while a handover's target gets its data.
inline constexpr const char* kDepthKey = "conf_rbd_concurrent_management_ops";

inline bool is_poolshift_key(std::string_view key) { return key.starts_with("poolshift."); }

inline std::string job_of(const Image& image) {
  const auto entry = image.spec.metadata.find(kJobKey);
  return entry == image.spec.metadata.end() ? "" : entry->second;
}

}  // namespace poolshift
