#include "trigger.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <set>

namespace poolshift::hook {

using nlohmann::json;

namespace {

SpoolRequest request_for(const DomainDescription& domain, const Disk& disk, const ImageName& target) {
  SpoolRequest request;
  request.domain_uuid = domain.uuid;
  request.domain_name = domain.name;
  request.disk = disk.target;
  request.source = *disk.image;
  request.swap = {{"target", to_string(target)}, {"create", true}};
  return request;
}

// The attributes of a <swap>, each taken out when it is read.
class Attributes {
 public:
  explicit Attributes(std::map<std::string, std::string> all) : left_(std::move(all)) {}

  std::optional<std::string> take(const std::string& name) {
    const auto found = left_.find(name);
    if (found == left_.end()) return std::nullopt;
    auto value = std::move(found->second);
    left_.erase(found);
    return value;
  }
  const std::map<std::string, std::string>& left() const { return left_; }

 private:
  std::map<std::string, std::string> left_;
};

Result<bool> yes_or_no(const std::string& name, const std::string& value) {
  if (value == "yes") return true;
  if (value == "no") return false;
  return Error{ErrorCode::invalid, fmt::format("attribute '{}' is '{}'", name, value), "Give yes or no."};
}

// Numbers become numbers; what is no number is left for the reader of the request to refuse.
json number_or_text(const std::string& value) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error == std::errc() && end == value.data() + value.size()) return number;
  return value;
}

const Disk* disk_of(const DomainDescription& domain, const std::string& target) {
  const auto found =
      std::find_if(domain.disks.begin(), domain.disks.end(), [&](const auto& disk) { return disk.target == target; });
  return found == domain.disks.end() ? nullptr : &*found;
}

// Nothing: there is nothing to do at this event.
Result<std::optional<SpoolRequest>> read_swap(Event event, const DomainDescription& domain,
                                              const MetadataElement& element) {
  const auto nothing = std::optional<SpoolRequest>();
  Attributes attributes(element.attributes);
  const auto when = parse_when(attributes.take("when").value_or("started"));
  if (!when) return Error{ErrorCode::invalid, "attribute 'when' is unknown", "Give started, stopped or both."};
  const auto disk_name = attributes.take("disk");
  const auto pool = attributes.take("pool");
  if (!disk_name || !pool) {
    return Error{ErrorCode::invalid, "it has no 'disk' or no 'pool'", "Give both, for example disk='vda' pool='ssd'."};
  }
  const auto* disk = disk_of(domain, *disk_name);
  if (disk == nullptr || !disk->image) {
    return Error{ErrorCode::invalid, fmt::format("disk '{}' is not an RBD disk of this domain", *disk_name),
                 "See its disks with 'virsh domblklist'."};
  }
  const ImageName target{*pool, attributes.take("namespace").value_or(disk->image->rbd_namespace),
                         attributes.take("image").value_or(disk->image->image)};
  auto request = request_for(domain, *disk, target);
  request.origin = Origin::metadata;
  const auto create = yes_or_no("create", attributes.take("create").value_or("yes"));
  if (!create) return create.error();
  request.swap["create"] = *create;
  const auto openstack = yes_or_no("openstack", attributes.take("openstack").value_or("no"));
  if (!openstack) return openstack.error();
  for (const auto* key : {"engine", "hydrate", "source_after"}) {
    if (auto value = attributes.take(key)) request.swap[key] = std::move(*value);
  }
  for (const auto* key : {"bandwidth_bytes_per_s", "max_pause_ms"}) {
    if (const auto value = attributes.take(key)) request.swap[key] = number_or_text(*value);
  }
  if (const auto value = attributes.take("window")) {
    const auto window = parse_window(*value);
    if (!window) return window.error();
    request.window = *window;
  }
  if (!attributes.left().empty()) {
    return Error{ErrorCode::invalid, fmt::format("it has the unknown attribute '{}'", attributes.left().begin()->first),
                 "See poolshift-qemu-hook(8) for those that there are."};
  }
  if (is_openstack(domain) && !*openstack) {
    return Error{ErrorCode::invalid, "OpenStack manages this domain, and Cinder would not know of the swap",
                 "Let Cinder retype the volume, or add openstack='yes'."};
  }
  if (!when->includes(event) || target == *disk->image) return nothing;
  return std::optional(std::move(request));
}

SpoolRequest request_of(const Rule& rule, const DomainDescription& domain, const Disk& disk) {
  auto request = request_for(domain, disk, target_of(rule, *disk.image));
  request.origin = Origin::policy;
  request.policy = rule.name;
  request.swap.update(rule.swap);
  if (const auto window = parse_window(rule.window)) request.window = *window;
  request.at_most = std::min(rule.at_most, kMostAtOnce);
  return request;
}

}  // namespace

Asked asked_for(Event event, const DomainDescription& domain, const Policy& policy) {
  Asked asked;
  std::set<std::string> named;  // disks that the metadata is about: what it says comes before any rule
  for (const auto& element : domain.metadata) {
    if (element.namespace_uri != kMetadataNamespace || element.name != "swap") continue;
    if (const auto disk = element.attributes.find("disk"); disk != element.attributes.end()) named.insert(disk->second);
    auto request = read_swap(event, domain, element);
    if (!request) {
      auto error = request.error();
      error.message =
          fmt::format("the <swap> in the metadata of domain '{}' is passed over: {}", domain.name, error.message);
      asked.errors.push_back(std::move(error));
    } else if (*request) {
      asked.requests.push_back(std::move(**request));
    }
  }
  for (const auto& disk : domain.disks) {
    if (named.contains(disk.target)) continue;
    if (const auto* rule = rule_for(policy, event, domain, disk)) {
      asked.requests.push_back(request_of(*rule, domain, disk));
    }
  }
  return asked;
}

}  // namespace poolshift::hook
