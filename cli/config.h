// The configuration file of a node: poolshift.conf(5). Lines NAME = VALUE are defaults for the options of the command
// line that have the same names.
#pragma once

#include <array>
#include <map>
#include <string>

#include "outcome.h"
#include "ports/system.h"

namespace poolshift::cli {

inline constexpr const char* kConfigFile = "/etc/poolshift/poolshift.conf";

// What may be in the file.
struct ConfigOption {
  const char* name;
  const char* environment;  // a variable that counts more than the file; null: none
  bool is_path;             // then it has to be absolute: nobody knows where the command will be run
};
inline constexpr std::array kConfigOptions = {
    ConfigOption{"connect", "LIBVIRT_DEFAULT_URI", false},
    ConfigOption{"ceph-conf", "CEPH_CONF", true},
    ConfigOption{"state-dir", "POOLSHIFT_STATE_DIR", true},
    ConfigOption{"overlay-dir", "POOLSHIFT_OVERLAY_DIR", true},
    ConfigOption{"guardian", "POOLSHIFT_GUARDIAN", true},
    ConfigOption{"patience", nullptr, false},
    ConfigOption{"log-file", nullptr, true},
    ConfigOption{"engine", nullptr, false},
    ConfigOption{"hydrate", nullptr, false},
    ConfigOption{"max-pause", nullptr, false},
    ConfigOption{"bandwidth", nullptr, false},
    ConfigOption{"source", nullptr, false},
    ConfigOption{"parallel", nullptr, false},
    ConfigOption{"attempts", nullptr, false},
    ConfigOption{"nova-conf", nullptr, true},
    ConfigOption{"metrics-file", nullptr, true},
};

struct ConfigValue {
  std::string text;
  std::string place;  // "line 3 of '/etc/poolshift/poolshift.conf'"
};
using Config = std::map<std::string, ConfigValue>;  // by option

// `file` empty: kConfigFile, which may be missing. Fails with a usage error that names file and line. That the values
// are what the options take is not looked at, but that paths are absolute.
Outcome<Config> read_config(System& system, const std::string& file);

}  // namespace poolshift::cli
