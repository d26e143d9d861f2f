// What is wrong with this node around the library: the qemu hook and its rules, the spool, the group, AppArmor and
// SELinux. Changes nothing.
#pragma once

#include <string>

#include "base/finding.h"
#include "ports/system.h"

namespace poolshift::cli {

struct NodePlaces {
  std::string connect_uri;
  std::string state_dir;
  std::string overlay_dir;
  std::string policy_dir;
};

Findings look_around(System& system, const NodePlaces& places);

// The socket of the daemon that answers this URI, as libvirt finds it; empty: it is not of this host's root, or it is
// not known.
std::string daemon_socket(System& system, const std::string& connect_uri);

}  // namespace poolshift::cli
