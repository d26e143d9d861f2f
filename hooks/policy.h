// The policy: which disks move by themselves. One file or more of /etc/poolshift/policy.d, each a JSON object whose
// keys poolshift-policy(5) documents. A file that cannot be understood is left out as a whole, and the others count.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "adapters/domain_xml.h"
#include "base/image_name.h"
#include "base/result.h"
#include "ports/system.h"

namespace poolshift::hook {

inline constexpr const char* kPolicyFolder = "/etc/poolshift/policy.d";
inline constexpr std::size_t kMaxPolicyBytes = 256 * 1024;

// What happened to the domain.
enum class Event { started, stopped };

// Which events a rule, or a request in a domain's metadata, is for: "started", "stopped" or "both".
struct When {
  bool started = true;
  bool stopped = false;

  bool includes(Event event) const { return event == Event::started ? started : stopped; }
};
std::optional<When> parse_when(std::string_view text);

// An element of the domain's <metadata>. Patterns are those of fnmatch(3).
struct MetadataMatch {
  std::string namespace_uri;
  std::string element = "*";  // pattern
  std::string attribute;      // empty: the text in the element is looked at
  std::string value = "*";    // pattern
};

struct Rule {
  std::string name;
  // Which disks: all of these must match.
  std::string source_pool;
  std::optional<std::string> source_namespace;  // empty optional: any
  std::string image = "*";                      // pattern
  std::string domain = "*";                     // pattern of the domain's name
  std::optional<MetadataMatch> metadata;
  bool openstack = false;  // domains of Nova too
  When when;
  // What is done with them.
  std::string target_pool;
  std::optional<std::string> target_namespace;     // empty optional: that of the source
  nlohmann::json swap = nlohmann::json::object();  // the other keys of a swap's request
  std::string window;                              // "HH:MM-HH:MM"; empty: at any time
  unsigned at_most = 0;                            // swaps of this rule at once; 0: as many as the worker's own limit
};

struct Policy {
  // All hosts among which the domains migrate have their jobs in this host's state folder: see docs/adr/0010.
  bool journals_are_shared = false;
  std::vector<Rule> rules;  // the first that matches a disk counts
};

// `what` names the text in errors. `invalid` names rule and key.
Result<Policy> parse_policy(std::string_view text, const std::string& what);

struct LoadedPolicy {
  Policy policy;
  std::vector<Error> errors;  // one for each file that does not count
};
// The files *.json of the folder, in the order of their names. A folder that does not exist is an empty policy.
LoadedPolicy load_policy(System& system, const std::string& folder);
// These files, whoever they belong to: to look what is wrong with them before they are put in place.
LoadedPolicy load_policy_files(System& system, const std::vector<std::string>& paths);

// Null: none is about this disk.
const Rule* rule_for(const Policy& policy, Event event, const DomainDescription& domain, const Disk& disk);

// Where the rule wants the disk on `source` to be.
ImageName target_of(const Rule& rule, const ImageName& source);

}  // namespace poolshift::hook
