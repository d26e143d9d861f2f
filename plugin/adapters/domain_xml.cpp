#include "adapters/domain_xml.h"

#include <fmt/core.h>

#include <algorithm>
#include <pugixml.hpp>
#include <sstream>

#include "adapters/disk_xml.h"

namespace poolshift {
namespace {

constexpr std::size_t kMaxDisks = 4096;
// Together they bound the work of finding out what a prefix stands for.
constexpr std::size_t kMaxMetadataElements = 4096;
constexpr std::size_t kMaxMetadataDepth = 64;
constexpr std::size_t kMaxMetadataAttributes = 256;  // of one element

std::string text(const pugi::xml_attribute& attribute) { return attribute.value(); }

bool is(const pugi::xml_attribute& attribute, std::string_view value) { return attribute.value() == value; }

bool is_rbd(const pugi::xml_node& source) { return source && is(source.attribute("protocol"), "rbd"); }

// libvirt splits at every slash but joins what is in excess of three parts to the image's name;
// parse_image_name() refuses that. A name it refuses is not an image that we could move.
std::optional<ImageName> image_of(const pugi::xml_node& source) {
  // A disk that shows a snapshot cannot be written to: it is not the image itself.
  if (!is_rbd(source) || source.child("snapshot")) return std::nullopt;
  const auto name = parse_image_name(source.attribute("name").value());
  return name ? std::optional(*name) : std::nullopt;
}

std::string host_of(const pugi::xml_node& host) {
  const auto name = text(host.attribute("name"));
  const auto port = text(host.attribute("port"));
  // libvirt writes an IPv6 address bare or in brackets, as it was given.
  const bool bare_ipv6 = name.find(':') != std::string::npos && name.front() != '[';
  const auto address = bare_ipv6 ? fmt::format("[{}]", name) : name;
  return port.empty() ? address : fmt::format("{}:{}", address, port);
}

ClusterAccess access_of(const pugi::xml_node& disk, const pugi::xml_node& source) {
  ClusterAccess access;
  for (const auto& host : source.children("host")) {
    if (host.attribute("name")) access.mon_hosts.push_back(host_of(host));
  }
  auto auth = source.child("auth");
  if (!auth) auth = disk.child("auth");
  access.user = text(auth.attribute("username"));
  access.secret_uuid = text(auth.child("secret").attribute("uuid"));
  access.secret_usage = text(auth.child("secret").attribute("usage"));
  access.conf_path = text(source.child("config").attribute("file"));
  return access;
}

std::string describe(const pugi::xml_node& disk, const pugi::xml_node& source) {
  if (!source) return "";
  const auto type = text(disk.attribute("type"));
  if (type == "network") {
    auto described = fmt::format("{}:{}", source.attribute("protocol").value(), source.attribute("name").value());
    if (const auto snapshot = source.child("snapshot")) described += "@" + text(snapshot.attribute("name"));
    return described;
  }
  for (const char* name : {"file", "dev", "dir", "volume", "path"}) {
    if (const auto attribute = source.attribute(name)) return fmt::format("{}:{}", type, attribute.value());
  }
  return type;
}

bool has_backing_file(const pugi::xml_node& disk) {
  // <backingStore/> without a source is libvirt's way to say that the chain ends here.
  return static_cast<bool>(disk.child("backingStore").child("source"));
}

bool is_same_source(const pugi::xml_node& one, const pugi::xml_node& other) {
  const auto same = [&](const char* name) {
    return one.attribute(name) && is(one.attribute(name), other.attribute(name).value());
  };
  return same("name") || same("file") || same("dev");
}

// The job loses its name at its end, before the disk is switched and for some moments after it (libvirt 9.0). A
// commit's goes to the image below, or to what the disk is on already; a copy's <mirror> goes when its disk is
// switched.
bool is_active_commit(const pugi::xml_node& mirror) {
  const auto job = mirror.attribute("job");
  if (!job || !is(job, "")) return is(job, "active-commit");
  const auto to = mirror.child("source");
  const auto disk = mirror.parent();
  return is_same_source(to, disk.child("backingStore").child("source")) || is_same_source(to, disk.child("source"));
}

void read_mirror(const pugi::xml_node& node, Disk& disk) {
  if (is_active_commit(node)) {
    disk.commits = true;
    return;
  }
  // Without `job` it is a copy: libvirt wrote it so before 1.2.9. Empty it is for the moment in which libvirt
  // has ended the job and not yet switched the disk (seen in libvirt 9.0 after a pivot).
  if (const auto job = node.attribute("job"); job && !is(job, "copy") && !is(job, "")) {
    disk.other_block_job = true;
    return;
  }
  Mirror mirror;
  mirror.image = image_of(node.child("source"));
  mirror.ready = is(node.attribute("ready"), "yes");
  mirror.pivoting = is(node.attribute("ready"), "pivot");
  disk.mirror = mirror;
}

Disk read_disk(const pugi::xml_node& node) {
  Disk disk;
  const auto source = node.child("source");
  disk.target = text(node.child("target").attribute("dev"));
  disk.described_source = describe(node, source);
  disk.file_path = text(source.attribute("file"));
  disk.image = image_of(source);
  if (is_rbd(source)) disk.access = access_of(node, source);
  disk.serial = node.child_value("serial");
  disk.shareable = static_cast<bool>(node.child("shareable"));
  disk.read_only = static_cast<bool>(node.child("readonly"));
  disk.format = text(node.child("driver").attribute("type"));
  disk.encrypted = source.child("encryption") || node.child("encryption");
  disk.unmaps = is(node.child("driver").attribute("discard"), "unmap");
  disk.has_overlay = has_backing_file(node);
  if (const auto mirror = node.child("mirror")) read_mirror(mirror, disk);
  disk.unsupported_parts = unsupported_parts(node);
  disk.comparable_xml = comparable_disk(node);
  return disk;
}

// pugixml knows nothing of namespaces: the declaration is looked for from the element upwards.
std::string namespace_of(const pugi::xml_node& element, std::string_view prefix) {
  const auto declaration = prefix.empty() ? std::string("xmlns") : "xmlns:" + std::string(prefix);
  for (auto node = element; node; node = node.parent()) {
    if (const auto found = node.attribute(declaration.c_str())) return text(found);
  }
  return "";
}

MetadataElement read_metadata_element(const pugi::xml_node& node) {
  const std::string_view qualified = node.name();
  const auto colon = qualified.find(':');
  const bool has_prefix = colon != std::string_view::npos;
  MetadataElement element;
  element.namespace_uri = namespace_of(node, has_prefix ? qualified.substr(0, colon) : "");
  element.name = has_prefix ? qualified.substr(colon + 1) : qualified;
  element.text = node.child_value();
  for (const auto& attribute : node.attributes()) {
    const std::string_view name = attribute.name();
    if (name != "xmlns" && !name.starts_with("xmlns:")) element.attributes.emplace(name, attribute.value());
  }
  return element;
}

bool has_too_many_attributes(const pugi::xml_node& node) {
  std::size_t count = 0;
  for (auto attribute = node.first_attribute(); attribute; attribute = attribute.next_attribute()) ++count;
  return count > kMaxMetadataAttributes;
}

Status read_metadata(const pugi::xml_node& domain, std::vector<MetadataElement>& elements) {
  const Error too_much{
      ErrorCode::failed,
      fmt::format("The domain's metadata has more than {} elements, {} of them inside each other, or {} "
                  "attributes of one",
                  kMaxMetadataElements, kMaxMetadataDepth, kMaxMetadataAttributes),
      "Check what wrote this XML."};
  const auto metadata = domain.child("metadata");
  if (has_too_many_attributes(domain) || has_too_many_attributes(metadata)) return too_much;
  std::size_t depth = 1;
  for (auto node = metadata.first_child(); node;) {
    if (node.type() == pugi::node_element) {
      if (elements.size() == kMaxMetadataElements || depth > kMaxMetadataDepth || has_too_many_attributes(node)) {
        return too_much;
      }
      elements.push_back(read_metadata_element(node));
    }
    if (const auto child = node.first_child()) {
      node = child;
      ++depth;
      continue;
    }
    for (; depth > 1 && !node.next_sibling(); --depth) node = node.parent();
    node = node.next_sibling();
  }
  return {};
}

void set_attribute(pugi::xml_node node, const char* name, const char* value) {
  auto attribute = node.attribute(name);
  if (!attribute) attribute = node.append_attribute(name);
  attribute = value;
}

void append_host(pugi::xml_node source, const std::string& host) {
  auto node = source.append_child("host");
  const auto colon = host.rfind(':');
  const auto bracket = host.rfind(']');
  const bool has_port = colon != std::string::npos && (bracket == std::string::npos || colon > bracket);
  auto name = host.substr(0, has_port ? colon : std::string::npos);
  // QEMU puts brackets around an IPv6 address by itself (qemu_rbd_mon_host() in block/rbd.c).
  if (name.size() > 2 && name.front() == '[' && name.back() == ']') name = name.substr(1, name.size() - 2);
  node.append_attribute("name") = name.c_str();
  if (has_port) node.append_attribute("port") = host.substr(colon + 1).c_str();
}

// The <driver> and the <source> of a raw RBD image, in front of `disk`'s other elements when it has none of these yet.
void write_rbd_source(pugi::xml_node disk, const ImageName& image, const ClusterAccess& access,
                      const std::string& conf_path) {
  set_attribute(disk, "type", "network");
  auto driver = disk.child("driver");
  if (!driver) {
    driver = disk.prepend_child("driver");
    driver.append_attribute("name") = "qemu";
  }
  set_attribute(driver, "type", "raw");
  disk.remove_child("source");
  auto source = disk.insert_child_after("source", driver);
  source.append_attribute("protocol") = "rbd";
  source.append_attribute("name") = to_string(image).c_str();
  for (const auto& host : access.mon_hosts) append_host(source, host);
  if (!conf_path.empty()) source.append_child("config").append_attribute("file") = conf_path.c_str();
  if (access.user.empty()) return;
  auto auth = source.append_child("auth");
  auth.append_attribute("username") = access.user.c_str();
  auto secret = auth.append_child("secret");
  secret.append_attribute("type") = "ceph";
  if (!access.secret_uuid.empty()) {
    secret.append_attribute("uuid") = access.secret_uuid.c_str();
  } else {
    secret.append_attribute("usage") = access.secret_usage.c_str();
  }
}

std::string save(const pugi::xml_node& node) {
  std::ostringstream out;
  node.print(out, "", pugi::format_raw | pugi::format_no_declaration);
  return out.str();
}

bool is_reached_alike(const ClusterAccess& known, const ClusterAccess& wanted) {
  return known.user == wanted.user && known.secret_uuid == wanted.secret_uuid &&
         known.secret_usage == wanted.secret_usage && (wanted.mon_hosts.empty() || known.mon_hosts == wanted.mon_hosts);
}

Result<pugi::xml_node> load_domain(std::string_view xml, pugi::xml_document& document,
                                   unsigned int options = pugi::parse_default) {
  if (xml.size() > kMaxDomainXmlBytes) {
    return Error{ErrorCode::failed, fmt::format("The domain's XML is longer than {} bytes", kMaxDomainXmlBytes),
                 "Check what wrote this XML."};
  }
  const auto parsed = document.load_buffer(xml.data(), xml.size(), options, pugi::encoding_utf8);
  const auto root = document.child("domain");
  if (!parsed || !root) {
    return Error{ErrorCode::failed,
                 fmt::format("This is not the XML of a domain: {}", parsed ? "no <domain>" : parsed.description()),
                 "Compare it with 'virsh dumpxml'."};
  }
  return root;
}

pugi::xml_node disk_node(const pugi::xml_node& domain, const std::string& target) {
  for (const auto& disk : domain.child("devices").children("disk")) {
    if (disk.child("target").attribute("dev").value() == target) return disk;
  }
  return {};
}

}  // namespace

Result<DomainDescription> parse_domain_xml(std::string_view xml) {
  pugi::xml_document document;
  const auto root = load_domain(xml, document);
  if (!root) return root.error();
  DomainDescription description;
  description.uuid = root->child("uuid").child_value();
  description.name = root->child("name").child_value();
  for (const auto& disk : root->child("devices").children("disk")) {
    if (description.disks.size() == kMaxDisks) {
      return Error{ErrorCode::failed, fmt::format("The domain's XML has more than {} disks", kMaxDisks),
                   "Check what wrote this XML."};
    }
    description.disks.push_back(read_disk(disk));
  }
  POOLSHIFT_TRY(read_metadata(*root, description.metadata));
  return description;
}

bool is_openstack(const DomainDescription& domain) {
  constexpr std::string_view kNovaNamespace = "http://openstack.org/xmlns/libvirt/nova/";  // and a version
  return std::any_of(domain.metadata.begin(), domain.metadata.end(),
                     [&](const auto& element) { return element.namespace_uri.starts_with(kNovaNamespace); });
}

std::optional<unsigned> mirror_source_index(std::string_view domain_xml, const std::string& disk) {
  pugi::xml_document document;
  const auto root = load_domain(domain_xml, document);
  if (!root) return std::nullopt;
  const unsigned index = disk_node(*root, disk).child("mirror").child("source").attribute("index").as_uint();
  return index != 0 ? std::optional(index) : std::nullopt;
}

CommitState commit_state(std::string_view domain_xml, const std::string& disk) {
  pugi::xml_document document;
  const auto root = load_domain(domain_xml, document);
  const auto mirror = root ? disk_node(*root, disk).child("mirror") : pugi::xml_node();
  if (!mirror || !is_active_commit(mirror)) return CommitState::none;
  return is(mirror.attribute("ready"), "yes") ? CommitState::ready : CommitState::under_way;
}

std::string conf_path_below(std::string_view domain_xml, const std::string& disk) {
  pugi::xml_document document;
  const auto root = load_domain(domain_xml, document);
  if (!root) return "";
  for (auto node = disk_node(*root, disk); node; node = node.child("backingStore")) {
    if (const auto config = node.child("source").child("config")) return text(config.attribute("file"));
  }
  return "";
}

Result<std::string> renamed_images_xml(std::string_view domain_xml, const std::map<std::string, ImageName>& images) {
  pugi::xml_document document;
  const auto root = load_domain(domain_xml, document, pugi::parse_full | pugi::parse_ws_pcdata);
  if (!root) return root.error();
  for (const auto& [disk, image] : images) {
    auto source = disk_node(*root, disk).child("source");
    if (!is_rbd(source)) {
      return Error{ErrorCode::not_found,
                   fmt::format("Domain '{}' has no RBD disk '{}'", root->child("name").child_value(), disk),
                   "See its disks with 'virsh domblklist'."};
    }
    set_attribute(source, "name", to_string(image).c_str());
  }
  return save(document);
}

std::string mirror_target_xml(const MirrorOptions& options, const std::string& source_conf_path) {
  pugi::xml_document document;
  auto disk = document.append_child("disk");
  set_attribute(disk, "type", "network");
  set_attribute(disk, "device", "disk");
  write_rbd_source(disk, options.target, options.access, source_conf_path);
  return save(document);
}

std::string overlay_xml(const std::vector<std::string>& all_disks, const std::string& disk,
                        const std::string& overlay_path) {
  pugi::xml_document document;
  auto disks = document.append_child("domainsnapshot").append_child("disks");
  for (const auto& target : all_disks) {
    auto node = disks.append_child("disk");
    node.append_attribute("name") = target.c_str();
    node.append_attribute("snapshot") = target == disk ? "external" : "no";
    if (target != disk) continue;
    node.append_attribute("type") = "file";
    node.append_child("driver").append_attribute("type") = "qcow2";
    node.append_child("source").append_attribute("file") = overlay_path.c_str();
  }
  return save(document);
}

Result<std::string> redefined_disk_xml(std::string_view domain_xml, const std::string& disk, const ImageName& image,
                                       const ClusterAccess& access) {
  pugi::xml_document document;
  const auto root =
      load_domain(domain_xml, document, pugi::parse_default | pugi::parse_ws_pcdata | pugi::parse_comments);
  if (!root) return root.error();
  auto node = disk_node(*root, disk);
  if (!node) {
    return Error{ErrorCode::not_found,
                 fmt::format("Domain '{}' has no disk '{}'", root->child("name").child_value(), disk),
                 "See its disks with 'virsh domblklist --inactive'."};
  }
  auto source = node.child("source");
  if (is_rbd(source) && is_reached_alike(access_of(node, source), access)) {
    set_attribute(source, "name", to_string(image).c_str());
    return save(node);
  }
  auto conf_path = conf_path_below(domain_xml, disk);
  if (conf_path.empty() && access.mon_hosts.empty()) conf_path = access.conf_path;
  while (node.remove_child("backingStore")) {
  }
  node.remove_child("auth");  // of the source; it stands in the source now
  write_rbd_source(node, image, access, conf_path);
  return save(node);
}

}  // namespace poolshift
