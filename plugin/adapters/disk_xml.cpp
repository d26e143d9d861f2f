#include "adapters/disk_xml.h"

#include <fmt/core.h>

#include <algorithm>
#include <sstream>
#include <string_view>

namespace poolshift {
namespace {

constexpr std::string_view kAll = "*";

// What one element may have. Names are separated by blanks; `*` allows all. Elements whose content the swap never
// touches and libvirt keeps as a whole (an address, a boot order) may have all; the others only what is listed.
struct Allowed {
  std::string_view path;
  std::string_view attributes;
  std::string_view children;
};

constexpr Allowed kAllowed[] = {
    {"disk", "type device model rawio sgio snapshot",
     "driver source target iotune serial wwn vendor product boot address alias blockio geometry readonly shareable "
     "auth "
     "encryption backingStore mirror"},
    // Not here, because they are QEMU's for a format other than raw, or insert a filter that keeps the source open:
    // metadata_cache, discard_no_unref; copy_on_read='on' is judged below.
    {"disk/driver",
     "name type cache error_policy rerror_policy io ioeventfd event_idx copy_on_read discard detect_zeroes iothread "
     "queues queue_size iommu ats packed page_per_vq",
     ""},
    {"disk/source", "protocol name index", "host auth config snapshot encryption"},
    {"disk/source/host", "name port", ""},
    {"disk/source/auth", "username", "secret"},
    {"disk/source/auth/secret", "type uuid usage", ""},
    {"disk/source/config", "file", ""},
    {"disk/source/snapshot", kAll, kAll},
    {"disk/source/encryption", kAll, kAll},
    {"disk/auth", "username", "secret"},
    {"disk/auth/secret", "type uuid usage", ""},
    {"disk/encryption", kAll, kAll},
    {"disk/backingStore", kAll, kAll},
    {"disk/mirror", kAll, kAll},
    {"disk/target", "dev bus tray removable rotation_rate", ""},
    {"disk/iotune", "", kAll},
    {"disk/serial", "", ""},
    {"disk/wwn", "", ""},
    {"disk/vendor", "", ""},
    {"disk/product", "", ""},
    {"disk/boot", kAll, ""},
    {"disk/address", kAll, kAll},
    {"disk/alias", "name", ""},
    {"disk/blockio", "logical_block_size physical_block_size discard_granularity", ""},
    {"disk/geometry", "cyls heads secs trans", ""},
    {"disk/readonly", "", ""},
    {"disk/shareable", "", ""},
};

bool is_listed(std::string_view list, std::string_view name) {
  if (list == kAll) return true;
  while (!list.empty()) {
    const auto blank = list.find(' ');
    if (list.substr(0, blank) == name) return true;
    list.remove_prefix(blank == std::string_view::npos ? list.size() : blank + 1);
  }
  return false;
}

const Allowed* allowed_at(std::string_view path) {
  const auto* found = std::find_if(std::begin(kAllowed), std::end(kAllowed),
                                   [&](const Allowed& allowed) { return allowed.path == path; });
  return found == std::end(kAllowed) ? nullptr : found;
}

// Only as deep as the list is: the recursion is bounded by it.
void collect(const pugi::xml_node& node, const std::string& path, std::vector<std::string>& parts) {
  const Allowed* allowed = allowed_at(path);
  if (allowed == nullptr) return;  // below an element that may have all children
  for (const auto& attribute : node.attributes()) {
    if (!is_listed(allowed->attributes, attribute.name())) {
      parts.push_back(fmt::format("attribute '{}' of <{}>", attribute.name(), node.name()));
    }
  }
  for (const auto& child : node.children()) {
    if (child.type() != pugi::node_element) continue;
    if (is_listed(allowed->children, child.name())) {
      collect(child, path + "/" + child.name(), parts);
    } else {
      parts.push_back(fmt::format("<{}> in <{}>", child.name(), node.name()));
    }
  }
}

bool changes_by_itself(const pugi::xml_node& disk, const pugi::xml_node& child) {
  constexpr std::string_view kNames = "source auth alias backingStore mirror iotune";
  return child.parent() == disk && is_listed(kNames, child.name());
}

std::vector<std::pair<std::string, std::string>> attributes_of(const pugi::xml_node& node) {
  std::vector<std::pair<std::string, std::string>> all;
  for (const auto& attribute : node.attributes()) all.emplace_back(attribute.name(), attribute.value());
  std::sort(all.begin(), all.end());
  return all;
}

constexpr int kMaxDepth = 16;  // libvirt's own XML has 5; the qemu hook gets XML from other hosts

void write_sorted(const pugi::xml_node& disk, const pugi::xml_node& node, int depth, std::ostream& out) {
  out << '<' << node.name();
  for (const auto& [name, value] : attributes_of(node)) out << ' ' << name << "='" << value << '\'';
  out << '>' << node.child_value();
  std::vector<pugi::xml_node> children;
  for (const auto& child : node.children()) {
    const bool is_kept = child.type() == pugi::node_element && !changes_by_itself(disk, child);
    if (is_kept && depth < kMaxDepth) children.push_back(child);
  }
  std::stable_sort(children.begin(), children.end(), [](const pugi::xml_node& one, const pugi::xml_node& other) {
    return std::string_view(one.name()) < other.name();
  });
  for (const auto& child : children) write_sorted(disk, child, depth + 1, out);
  out << "</" << node.name() << '>';
}

}  // namespace

std::vector<std::string> unsupported_parts(const pugi::xml_node& disk) {
  std::vector<std::string> parts;
  collect(disk, "disk", parts);
  if (std::string_view(disk.child("driver").attribute("copy_on_read").value()) == "on") {
    parts.emplace_back("copy_on_read='on' of <driver>");
  }
  return parts;
}

std::string comparable_disk(const pugi::xml_node& disk) {
  pugi::xml_document document;
  auto copy = document.append_copy(disk);
  auto driver = copy.child("driver");
  if (!driver) driver = copy.append_child("driver");
  if (!driver.attribute("name")) driver.append_attribute("name") = "qemu";
  if (!driver.attribute("type")) driver.append_attribute("type") = "raw";
  if (!copy.attribute("device")) copy.append_attribute("device") = "disk";
  copy.remove_attribute("type");  // of the source: a file while an overlay is on the disk
  std::ostringstream out;
  write_sorted(copy, copy, 0, out);
  return out.str();
}

}  // namespace poolshift
