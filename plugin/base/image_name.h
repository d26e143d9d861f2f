// Names of RBD images and how the cluster that holds them is reached.
#pragma once

#include <compare>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace poolshift {

// Of a domain, disk, pool, namespace or image, and of what names a way to the cluster.
inline constexpr std::size_t kMaxNameBytes = 255;

// POOL[/NAMESPACE]/IMAGE, as rbd(8) writes it.
struct ImageName {
  std::string pool;
  std::string rbd_namespace;  // empty: the default namespace
  std::string image;

  auto operator<=>(const ImageName&) const = default;
};

std::string to_string(const ImageName& name);

// Parses POOL[/NAMESPACE]/IMAGE. Snapshots (`@`) and empty parts are refused: ErrorCode::invalid.
Result<ImageName> parse_image_name(std::string_view text);

// How to reach the cluster: from the domain's XML, unless a Ceph configuration file overrides it. Holds no key.
struct ClusterAccess {
  std::vector<std::string> mon_hosts;  // "host:port", IPv6 in brackets
  std::string user;                    // without "client."
  std::string secret_uuid;             // libvirt secret that holds the key, by UUID or
  std::string secret_usage;            // by usage name
  std::string conf_path;               // Ceph configuration file; empty: none

  bool operator==(const ClusterAccess&) const = default;
};

}  // namespace poolshift
