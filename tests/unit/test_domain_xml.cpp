// The XML files are what libvirt 9.0 with QEMU 7.2 wrote during one block copy, one overlay and one active
// commit.
#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>
#include <map>
#include <pugixml.hpp>
#include <set>
#include <sstream>

#include "adapters/domain_xml.h"

using namespace poolshift;

namespace {

std::string fixture(const std::string& name) {
  std::ifstream file(std::string(POOLSHIFT_TEST_DATA) + "/domain_xml/" + name);
  REQUIRE(file);
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

std::vector<Disk> disks_of(const std::string& xml) {
  auto parsed = parse_domain_xml(xml);
  if (!parsed) FAIL(parsed.error().message);
  return std::move(parsed->disks);
}

// The one disk of a domain with this in its <disk>.
Disk disk_with(const std::string& inner, const std::string& attributes = "type='network' device='disk'") {
  auto disks = disks_of("<domain><devices><disk " + attributes + ">" + inner + "</disk></devices></domain>");
  REQUIRE(disks.size() == 1);
  return disks[0];
}

const ImageName kSource{"volumes-hdd", "", "volume-1"};
const ImageName kTarget{"volumes-ssd", "", "volume-1"};

}  // namespace

TEST_CASE("domain XML: a disk from before a copy to after it", "[domain_xml]") {
  const auto before = parse_domain_xml(fixture("00-before.xml"));
  REQUIRE(before.ok());
  CHECK(before->name == "guest");
  CHECK(before->uuid.size() == 36);
  REQUIRE(before->disks.size() == 1);
  const auto& disk = before->disks[0];
  CHECK(disk.target == "vda");
  CHECK(disk.image == kSource);
  CHECK(disk.described_source == "rbd:volumes-hdd/volume-1");
  CHECK(disk.unmaps);
  CHECK_FALSE(disk.mirror);
  CHECK_FALSE(disk.has_overlay);
  CHECK(disk.file_path.empty());
  CHECK(disk.access.user == "cinder");
  CHECK(disk.access.secret_uuid.size() == 36);
  CHECK(disk.access.secret_usage.empty());
  CHECK(disk.access.conf_path.empty());
  REQUIRE(disk.access.mon_hosts.size() == 1);
  CHECK(disk.access.mon_hosts[0].substr(0, 10) == "127.0.0.1:");
  CHECK_FALSE(mirror_source_index(fixture("00-before.xml"), "vda"));

  const auto copying = disks_of(fixture("01-mirroring.xml"))[0];
  REQUIRE(copying.mirror);
  CHECK(copying.image == kSource);
  CHECK(copying.mirror->image == kTarget);
  CHECK_FALSE(copying.mirror->ready);
  CHECK_FALSE(copying.mirror->pivoting);
  CHECK_FALSE(copying.other_block_job);
  CHECK_FALSE(copying.has_overlay);
  CHECK(mirror_source_index(fixture("01-mirroring.xml"), "vda") == 2U);
  CHECK_FALSE(mirror_source_index(fixture("01-mirroring.xml"), "vdb"));

  const auto ready = disks_of(fixture("02-ready.xml"))[0];
  REQUIRE(ready.mirror);
  CHECK(ready.mirror->ready);

  const auto pivoted = disks_of(fixture("03-pivoted.xml"))[0];
  CHECK(pivoted.image == kTarget);
  CHECK(pivoted.access == disk.access);
  CHECK_FALSE(pivoted.mirror);
  // <backingStore/> says that the chain ends here.
  CHECK_FALSE(pivoted.has_overlay);
}

TEST_CASE("domain XML: an overlay and its commit", "[domain_xml]") {
  const auto overlay = disks_of(fixture("10-overlay.xml"))[0];
  CHECK(overlay.has_overlay);
  CHECK_FALSE(overlay.image);
  CHECK(overlay.described_source == "file:/srv/stack/ov.qcow2");

  const auto committing = disks_of(fixture("11-active-commit.xml"))[0];
  CHECK(committing.has_overlay);
  CHECK(committing.commits);
  CHECK_FALSE(committing.other_block_job);
  CHECK_FALSE(committing.mirror);
  CHECK(committing.file_path == "/srv/stack/ov.qcow2");
  CHECK(commit_state(fixture("11-active-commit.xml"), "vda") == CommitState::ready);
  CHECK(commit_state(fixture("11-active-commit.xml"), "vdb") == CommitState::none);
  CHECK(commit_state(fixture("10-overlay.xml"), "vda") == CommitState::none);
  CHECK(commit_state(fixture("02-ready.xml"), "vda") == CommitState::none);

  // Without a name for its job, what goes to the image below, or to the disk's own, is a commit that is ending.
  const std::string below = "<backingStore type='network'><source protocol='rbd' name='p/i'/></backingStore>";
  const auto ending = [&](const std::string& to) {
    return disk_with("<source file='/o'/>" + below + "<mirror type='network' job=''><source protocol='rbd' name='" +
                     to + "'/></mirror>");
  };
  CHECK(ending("p/i").commits);
  CHECK_FALSE(ending("p/i").mirror);
  CHECK(ending("p/other").mirror);
  CHECK_FALSE(ending("p/other").commits);
  const auto switched = disk_with(
      "<source protocol='rbd' name='p/i'/><mirror type='network' job=''><source protocol='rbd' name='p/i'/></mirror>");
  CHECK(switched.commits);
  CHECK_FALSE(switched.mirror);
}

TEST_CASE("domain XML: an overlay for one disk of several", "[domain_xml]") {
  CHECK(overlay_xml({"vda", "vdb", "sda"}, "vdb", "/a & b.qcow2") ==
        "<domainsnapshot><disks><disk name=\"vda\" snapshot=\"no\"/>"
        "<disk name=\"vdb\" snapshot=\"external\" type=\"file\"><driver type=\"qcow2\"/>"
        "<source file=\"/a &amp; b.qcow2\"/></disk><disk name=\"sda\" snapshot=\"no\"/></disks></domainsnapshot>");
}

TEST_CASE("domain XML: a disk is redefined and all else kept", "[domain_xml]") {
  ClusterAccess access;
  access.mon_hosts = {"mon1:6789"};
  access.user = "cinder";
  access.secret_uuid = "4429ff07-8808-412c-adb3-d96a688a5e7e";
  const std::string before =
      "<domain type='kvm'><name>g</name><metadata><x:a xmlns:x='u'>  </x:a><!-- kept --></metadata><devices>"
      "<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none' discard='unmap'/>"
      "<source file='/o'/><backingStore type='network'><format type='raw'/><source protocol='rbd' name='p/old'>"
      "<config file='/etc/ceph/two.conf'/></source></backingStore><target dev='vda' bus='virtio'/>"
      "<serial>s</serial></disk>"
      "<disk type='file' device='disk'><source file='/other'/><target dev='vdb'/></disk>"
      "<graphics type='vnc' passwd='secret &lt;'/></devices></domain>";
  const auto after = redefined_disk_xml(before, "vda", kTarget, access);
  REQUIRE(after.ok());
  CHECK(*after ==
        "<disk type=\"network\" device=\"disk\"><driver name=\"qemu\" type=\"raw\" cache=\"none\" discard=\"unmap\"/>"
        "<source protocol=\"rbd\" name=\"volumes-ssd/volume-1\"><host name=\"mon1\" port=\"6789\"/>"
        "<config file=\"/etc/ceph/two.conf\"/><auth username=\"cinder\">"
        "<secret type=\"ceph\" uuid=\"4429ff07-8808-412c-adb3-d96a688a5e7e\"/></auth></source>"
        "<target dev=\"vda\" bus=\"virtio\"/><serial>s</serial></disk>");
  const auto none = redefined_disk_xml(before, "vdc", kTarget, access);
  REQUIRE_FALSE(none.ok());
  CHECK(none.error().code == ErrorCode::not_found);
}

TEST_CASE("domain XML: a source that is reached the same way only gets another name", "[domain_xml]") {
  ClusterAccess access;
  access.mon_hosts = {"mon1:6789"};
  access.user = "cinder";
  access.secret_usage = "client.cinder";
  const std::string before =
      "<domain><devices><disk type='network'><driver name='qemu' type='raw'/><auth username='cinder'>"
      "<secret type='ceph' usage='client.cinder'/></auth><source protocol='rbd' name='p/old' index='1'>"
      "<host name='mon1' port='6789'/><config file='/c'/><!-- kept --></source><target dev='vda'/></disk>"
      "</devices></domain>";
  const std::string renamed =
      "<disk type=\"network\"><driver name=\"qemu\" type=\"raw\"/><auth username=\"cinder\">"
      "<secret type=\"ceph\" usage=\"client.cinder\"/></auth>"
      "<source protocol=\"rbd\" name=\"volumes-ssd/volume-1\" index=\"1\">"
      "<host name=\"mon1\" port=\"6789\"/><config file=\"/c\"/><!-- kept --></source><target dev=\"vda\"/></disk>";
  CHECK(*redefined_disk_xml(before, "vda", kTarget, access) == renamed);
  access.mon_hosts.clear();  // we reach the cluster by a file of our own
  access.conf_path = "/ours";
  CHECK(*redefined_disk_xml(before, "vda", kTarget, access) == renamed);

  access.user = "other";
  access.mon_hosts = {"mon2:6789"};
  const auto other = redefined_disk_xml(before, "vda", kTarget, access);
  REQUIRE(other.ok());
  const auto disk =
      disk_with(other->substr(other->find("<source"), other->find("</source>") - other->find("<source")) + "</source>");
  CHECK(disk.image == kTarget);
  CHECK(disk.access.user == "other");
  CHECK(disk.access.mon_hosts == access.mon_hosts);
  CHECK(disk.access.conf_path == "/c");
  CHECK(other->find("username=\"cinder\"") == std::string::npos);
}

TEST_CASE("domain XML: states of a mirror", "[domain_xml]") {
  const auto mirror = [](const std::string& attributes) {
    return disk_with("<mirror type='network' " + attributes + "><source protocol='rbd' name='p/i'/></mirror>");
  };
  CHECK(mirror("job='copy' ready='pivot'").mirror->pivoting);
  CHECK_FALSE(mirror("job='copy' ready='pivot'").mirror->ready);
  CHECK_FALSE(mirror("job='copy' ready='abort'").mirror->ready);
  CHECK_FALSE(mirror("job='copy' ready='abort'").mirror->pivoting);
  CHECK(mirror("ready='yes'").mirror->ready);
  CHECK(mirror("job='something-new'").other_block_job);
  const auto to_file = disk_with("<mirror type='file' file='/x' job='copy'><source file='/x'/></mirror>");
  REQUIRE(to_file.mirror);
  CHECK_FALSE(to_file.mirror->image);
}

TEST_CASE("domain XML: names of images", "[domain_xml]") {
  const auto image = [](const std::string& name) {
    return disk_with("<source protocol='rbd' name='" + name + "'/>").image;
  };
  CHECK(image("pool/image") == ImageName{"pool", "", "image"});
  CHECK(image("pool/ns/image") == ImageName{"pool", "ns", "image"});
  CHECK(image("a &amp; b/&lt;c&gt;") == ImageName{"a & b", "", "<c>"});
  CHECK_FALSE(image("image"));
  CHECK_FALSE(image(""));
  CHECK_FALSE(image("pool/image@snap"));
  CHECK_FALSE(image("a/b/c/d"));
  const auto snapshot = disk_with("<source protocol='rbd' name='p/i'><snapshot name='s'/></source>");
  CHECK_FALSE(snapshot.image);
  CHECK(snapshot.described_source == "rbd:p/i@s");
  CHECK_FALSE(disk_with("<source protocol='iscsi' name='p/i'/>").image);
}

TEST_CASE("domain XML: where the cluster is and who may enter", "[domain_xml]") {
  const auto under_source = disk_with(
      "<source protocol='rbd' name='p/i'>"
      "<host name='mon1' port='6789'/><host name='mon2'/><host name='fd00::1' port='3300'/><host "
      "name='fd00::2'/>"
      "<host name='[fd00::3]' port='6789'/><host transport='unix' socket='/x'/>"
      "<config file='/etc/ceph/other.conf'/>"
      "<auth username='nova'><secret type='ceph' usage='the key'/></auth></source>");
  CHECK(under_source.access.mon_hosts ==
        std::vector<std::string>{"mon1:6789", "mon2", "[fd00::1]:3300", "[fd00::2]", "[fd00::3]:6789"});
  CHECK(under_source.access.user == "nova");
  CHECK(under_source.access.secret_usage == "the key");
  CHECK(under_source.access.secret_uuid.empty());
  CHECK(under_source.access.conf_path == "/etc/ceph/other.conf");

  const auto under_disk =
      disk_with("<auth username='cinder'><secret type='ceph' uuid='u'/></auth><source protocol='rbd' name='p/i'/>");
  CHECK(under_disk.access.user == "cinder");
  CHECK(under_disk.access.secret_uuid == "u");
  CHECK(disk_with("<auth username='x'/><source file='/f'/>", "type='file'").access == ClusterAccess{});
}

TEST_CASE("domain XML: other properties and sources", "[domain_xml]") {
  const auto disk = disk_with(
      "<driver discard='unmap'/><shareable/><readonly/><serial>volume-1</serial><source file='/f'/>", "type='file'");
  CHECK(disk.serial == "volume-1");
  CHECK(disk.unmaps);
  CHECK(disk.shareable);
  CHECK(disk.read_only);
  CHECK_FALSE(disk.encrypted);
  CHECK_FALSE(disk_with("<driver discard='ignore'/>").unmaps);
  CHECK(disk_with("<source protocol='rbd' name='p/i'><encryption format='luks'/></source>").encrypted);
  CHECK(disk_with("<encryption format='luks'/><source protocol='rbd' name='p/i'/>").encrypted);
  CHECK(disk_with("<source dev='/dev/sda'/>", "type='block'").described_source == "block:/dev/sda");
  CHECK(disk_with("<source type='pci' managed='yes'/>", "type='nvme'").described_source == "nvme");
  CHECK(disk_with("", "type='file' device='cdrom'").described_source.empty());
  CHECK_FALSE(disk_with("<backingStore/>").has_overlay);
  CHECK_FALSE(disk_with("<backingStore type='file'><format type='raw'/></backingStore>").has_overlay);
}

TEST_CASE("domain XML: what is no domain, or too much of one", "[domain_xml]") {
  const auto refused = [](const std::string& xml) {
    const auto parsed = parse_domain_xml(xml);
    return !parsed.ok() && !parsed.error().message.empty() && !parsed.error().advice.empty();
  };
  CHECK(refused(""));
  CHECK(refused("not XML"));
  CHECK(refused("<network/>"));
  CHECK(refused("<domain>"));
  CHECK(refused("<domain><devices><disk></devices></domain>"));
  CHECK(refused(std::string("<domain>\0</domain>", 18)));
  CHECK(refused("<domain>" + std::string(kMaxDomainXmlBytes, ' ') + "</domain>"));
  std::string many = "<domain><devices>";
  for (int i = 0; i < 5000; ++i) many += "<disk/>";
  CHECK(refused(many + "</devices></domain>"));

  CHECK(disks_of("<domain/>").empty());
  CHECK(disks_of("<domain><devices/></domain>").empty());
  // A million levels: neither reading nor freeing may recurse.
  std::string deep;
  for (int i = 0; i < 1'000'000; ++i) deep += "<a>";
  CHECK(refused("<domain>" + deep));
  // Entities of a document type are not expanded, and nothing is fetched.
  const auto bomb = parse_domain_xml(
      "<!DOCTYPE domain [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b SYSTEM 'file:///etc/passwd'>]>"
      "<domain><name>&a;&b;</name></domain>");
  REQUIRE(bomb.ok());
  CHECK(bomb->name == "&a;&b;");
}

TEST_CASE("domain XML: the target of a copy", "[domain_xml]") {
  MirrorOptions options;
  options.target = {"po'ol", "n<s", "im\"a&ge"};
  options.access.mon_hosts = {"mon1:6789", "[fd00::1]:3300", "mon2", "[fd00::2]"};
  options.access.user = "a'b";
  options.access.secret_uuid = "the-uuid";
  options.access.conf_path = "/for/us/only.conf";
  const auto xml = mirror_target_xml(options, "");
  CHECK(xml.find("/for/us/only.conf") == std::string::npos);
  CHECK(xml.find("<host name=\"fd00::1\" port=\"3300\"") != std::string::npos);

  const auto disk = disks_of("<domain><devices>" + xml + "</devices></domain>")[0];
  CHECK(disk.image == options.target);
  CHECK(disk.access.mon_hosts == options.access.mon_hosts);
  CHECK(disk.access.user == "a'b");
  CHECK(disk.access.secret_uuid == "the-uuid");

  options.access.secret_uuid.clear();
  options.access.secret_usage = "the usage";
  const auto with_conf = mirror_target_xml(options, "/of/the/source.conf");
  const auto other = disks_of("<domain><devices>" + with_conf + "</devices></domain>")[0];
  CHECK(other.access.secret_usage == "the usage");
  CHECK(other.access.secret_uuid.empty());
  CHECK(other.access.conf_path == "/of/the/source.conf");

  options.access = {};
  CHECK(mirror_target_xml(options, "").find("<auth") == std::string::npos);
}

TEST_CASE("domain XML: metadata is read with its namespaces, at any depth", "[domain_xml]") {
  const auto parsed = parse_domain_xml(
      "<domain xmlns:out='urn:out'><metadata><a:one xmlns:a='urn:a' x='1' a:y='2'>text<!-- c --><two xmlns='urn:b'>"
      "<three/></two><a:four/></a:one><out:five/><six/><none:seven/></metadata><devices/></domain>");
  REQUIRE(parsed.ok());
  std::string seen;
  for (const auto& element : parsed->metadata) seen += element.namespace_uri + "|" + element.name + " ";
  CHECK(seen == "urn:a|one urn:b|two urn:b|three urn:a|four urn:out|five |six |seven ");
  CHECK(parsed->metadata[0].text == "text");
  CHECK(parsed->metadata[0].attributes == std::map<std::string, std::string>{{"x", "1"}, {"a:y", "2"}});
  CHECK(parse_domain_xml("<domain/>")->metadata.empty());

  std::string many = "<domain><metadata>";
  for (int i = 0; i < 4096; ++i) many += "<a/>";
  CHECK(parse_domain_xml(many + "</metadata></domain>").ok());
  CHECK_FALSE(parse_domain_xml(many + "<a/></metadata></domain>").ok());
  const auto deep = [](int depth) {
    std::string xml;
    for (int i = 0; i < depth; ++i) xml += "<a>";
    for (int i = 0; i < depth; ++i) xml += "</a>";
    return parse_domain_xml("<domain><metadata><b/>" + xml + "</metadata></domain>");
  };
  CHECK(deep(64)->metadata.size() == 65);
  CHECK_FALSE(deep(65).ok());
  std::string wide = "<domain><metadata><a";
  for (int i = 0; i < 256; ++i) wide += " a" + std::to_string(i) + "=''";
  CHECK(parse_domain_xml(wide + "/></metadata></domain>").ok());
  CHECK_FALSE(parse_domain_xml(wide + " b=''/></metadata></domain>").ok());
}

TEST_CASE("domain XML: an image gets another name, and nothing else changes", "[domain_xml]") {
  const auto before = fixture("00-before.xml");
  const auto after = renamed_images_xml(before, {{"vda", {"volumes-ssd", "", "volume-2"}}});
  REQUIRE(after.ok());
  auto expected = before;
  const std::string name = "volumes-hdd/volume-1";
  REQUIRE(expected.find(name) != std::string::npos);
  expected.replace(expected.find(name), name.size(), "volumes-ssd/volume-2");
  const auto plain = [](std::string xml) {  // quotes and the space before "/>" may differ
    std::replace(xml.begin(), xml.end(), '\'', '"');
    for (auto at = xml.find(" />"); at != std::string::npos; at = xml.find(" />")) xml.erase(at, 1);
    while (!xml.empty() && xml.back() == '\n') xml.pop_back();
    return xml;
  };
  CHECK(plain(*after) == plain(expected));
  CHECK(renamed_images_xml(before, {{"vdx", {"p", "", "i"}}}).error().code == ErrorCode::not_found);
}

// --- parts of a disk that are not supported
// ---------------------------------------------------------------------------

namespace {

const std::string kSchemas = "/usr/share/libvirt/schemas/";

// What libvirt's schema lets stand directly in an element: names of elements, and of attributes with an '@'.
class Schema {
 public:
  Schema() { load("domain.rng"); }
  bool loaded() const { return defines_.contains("disk"); }

  // Of all elements with this name that stand directly in one of `parents`.
  std::vector<pugi::xml_node> elements(const std::vector<pugi::xml_node>& parents, const std::string& name) const {
    std::vector<pugi::xml_node> found;
    for (const auto& node : contents(parents)) {
      if (std::string(node.name()) == "element" && node.attribute("name").value() == name) found.push_back(node);
    }
    return found;
  }
  std::set<std::string> names(const std::vector<pugi::xml_node>& parents) const {
    std::set<std::string> names;
    for (const auto& node : contents(parents)) {
      const bool is_attribute = std::string(node.name()) == "attribute";
      names.insert((is_attribute ? "@" : "") + std::string(node.attribute("name").value()));
    }
    return names;
  }
  std::vector<pugi::xml_node> disks() const { return elements(defines_.at("disk"), "disk"); }

 private:
  void load(const std::string& name) {
    if (documents_.contains(name) || !documents_[name].load_file((kSchemas + name).c_str())) return;
    const auto grammar = documents_[name].child("grammar");
    for (const auto& include : grammar.children("include")) load(include.attribute("href").value());
    for (const auto& define : grammar.children("define")) defines_[define.attribute("name").value()].push_back(define);
  }
  std::vector<pugi::xml_node> contents(const std::vector<pugi::xml_node>& parents) const {
    std::vector<pugi::xml_node> found;
    std::set<std::string> visited;
    for (const auto& parent : parents) collect(parent, found, visited);
    return found;
  }
  void collect(const pugi::xml_node& node, std::vector<pugi::xml_node>& found, std::set<std::string>& visited) const {
    for (const auto& child : node.children()) {
      const std::string kind = child.name();
      if (kind == "element" || kind == "attribute") {
        found.push_back(child);
      } else if (kind != "ref") {
        collect(child, found, visited);
      } else if (const std::string name = child.attribute("name").value();
                 defines_.contains(name) && visited.insert(name).second) {
        for (const auto& define : defines_.at(name)) collect(define, found, visited);
      }
    }
  }

  std::map<std::string, pugi::xml_document> documents_;
  std::map<std::string, std::vector<pugi::xml_node>> defines_;  // more than one: they are combined
};

std::vector<std::string> unsupported(const std::string& inner, const std::string& attributes = "type='network'") {
  return disk_with(inner, attributes).unsupported_parts;
}

const char* const kSourceStart = "<source protocol='rbd' name='pool/image'";

}  // namespace

TEST_CASE("domain XML: whatever libvirt's schema allows in a disk is either known or named", "[domain_xml]") {
  const Schema schema;
  if (!schema.loaded()) {
    WARN("not run: libvirt's schema is not in " << kSchemas << " (package libvirt0)");
    return;
  }
  const std::set<std::string> known_in_disk = {
      "@type",  "@device",  "@model", "@rawio",   "@sgio",     "@snapshot",  "driver",      "source", "target",
      "iotune", "serial",   "wwn",    "vendor",   "product",   "boot",       "address",     "alias",  "blockio",
      "auth",   "geometry", "mirror", "readonly", "shareable", "encryption", "backingStore"};
  const auto in_disk = schema.names(schema.disks());
  CHECK(in_disk.size() > 20);
  CHECK(in_disk.contains("transient"));
  for (const auto& name : in_disk) {
    INFO("<disk>: " << name);
    const bool is_attribute = name.front() == '@';
    const auto parts = is_attribute ? unsupported("", name.substr(1) + "='x'") : unsupported("<" + name + "/>");
    CHECK(parts.empty() == known_in_disk.contains(name));
    if (!parts.empty()) CHECK(parts.front().find(is_attribute ? name.substr(1) : name) != std::string::npos);
  }

  const std::set<std::string> known_in_source = {"@protocol", "@name",  "@index",   "host",
                                                 "auth",      "config", "snapshot", "encryption"};
  const auto in_source = schema.names(schema.elements(schema.disks(), "source"));
  CHECK(in_source.contains("slices"));
  for (const auto& name : in_source) {
    INFO("<source>: " << name);
    const bool is_attribute = name.front() == '@';
    const auto parts = is_attribute ? unsupported("<source " + name.substr(1) + "='x'/>")
                                    : unsupported(std::string(kSourceStart) + "><" + name + "/></source>");
    CHECK(parts.empty() == known_in_source.contains(name));
  }

  const std::set<std::string> known_in_driver = {
      "@name",      "@type",       "@cache",        "@error_policy", "@rerror_policy", "@io",
      "@ioeventfd", "@event_idx",  "@copy_on_read", "@discard",      "@detect_zeroes", "@iothread",
      "@queues",    "@queue_size", "@iommu",        "@ats",          "@packed",        "@page_per_vq"};
  const auto in_driver = schema.names(schema.elements(schema.disks(), "driver"));
  CHECK(in_driver.contains("@copy_on_read"));
  for (const auto& name : in_driver) {
    INFO("<driver>: " << name);
    const bool is_attribute = name.front() == '@';
    const auto parts = is_attribute ? unsupported("<driver " + name.substr(1) + "='x'/>")
                                    : unsupported("<driver><" + name + "/></driver>");
    CHECK(parts.empty() == known_in_driver.contains(name));
  }
}

TEST_CASE("domain XML: parts that are not supported are named, at every depth", "[domain_xml]") {
  const std::string source = kSourceStart;
  CHECK(unsupported(source + "><slices><slice type='storage' offset='1' size='2'/></slices></source>") ==
        std::vector<std::string>{"<slices> in <source>"});
  CHECK(unsupported(source + " tls='yes'/>") == std::vector<std::string>{"attribute 'tls' of <source>"});
  CHECK(unsupported(source + "><host name='a' port='1' transport='unix'/></source>") ==
        std::vector<std::string>{"attribute 'transport' of <host>"});
  CHECK(unsupported(source + "><auth username='a'><secret type='ceph' uuid='b' passphrase='c'/></auth></source>") ==
        std::vector<std::string>{"attribute 'passphrase' of <secret>"});
  CHECK(unsupported("<driver name='qemu' copy_on_read='on'/>") ==
        std::vector<std::string>{"copy_on_read='on' of <driver>"});
  CHECK(unsupported("<driver name='qemu' copy_on_read='off'/>").empty());
  CHECK(unsupported("<driver><metadata_cache/></driver><transient/>") ==
        std::vector<std::string>{"<metadata_cache> in <driver>", "<transient> in <disk>"});
  for (const char* name : {"00-before.xml", "01-mirroring.xml", "02-ready.xml", "03-pivoted.xml"}) {
    INFO(name);
    for (const auto& disk : disks_of(fixture(name))) CHECK(disk.unsupported_parts.empty());
  }
}

TEST_CASE("domain XML: a swap changes nothing that is compared, another change shows", "[domain_xml]") {
  CHECK(disks_of(fixture("00-before.xml"))[0].comparable_xml == disks_of(fixture("03-pivoted.xml"))[0].comparable_xml);
  const std::string rest =
      "<target dev='vda' bus='virtio'/><serial>42</serial><wwn>5000c50015ea71aa</wwn><boot order='1'/>"
      "<blockio logical_block_size='4096'/><iotune><total_bytes_sec>9</total_bytes_sec></iotune>"
      "<address type='pci' domain='0x0000' bus='0x00' slot='0x04' function='0x0'/>";
  const std::string driver = "<driver name='qemu' type='raw' cache='none' discard='unmap' queues='2'/>";
  const auto domain_with = [&](const std::string& inner) {
    return "<domain><name>guest</name><devices><disk type='network' device='disk'>" + inner +
           "</disk></devices></domain>";
  };
  const auto before = domain_with(driver + kSourceStart +
                                  "><host name='a' port='6789'/><auth username='u'><secret type='ceph' "
                                  "uuid='s'/></auth></source>" +
                                  rest);
  const ClusterAccess same{{"a:6789"}, "u", "s", "", ""};
  const ClusterAccess other{{"b:6789"}, "v", "t", "", ""};
  for (const auto& access : {same, other}) {
    const auto redefined = redefined_disk_xml(before, "vda", kTarget, access);
    REQUIRE(redefined);
    const auto after = disks_of("<domain><devices>" + *redefined + "</devices></domain>")[0];
    CHECK(after.image == kTarget);
    CHECK(after.access.user == access.user);
    CHECK(after.comparable_xml == disks_of(before)[0].comparable_xml);
    CHECK(after.comparable_xml.find("5000c50015ea71aa") != std::string::npos);
    CHECK(after.comparable_xml.find("uuid") == std::string::npos);
  }
  const auto changed = [&](const std::string& inner) { return disks_of(domain_with(inner))[0].comparable_xml; };
  const auto source = std::string(kSourceStart) + "/>";
  CHECK(changed(driver + source + rest) == disks_of(before)[0].comparable_xml);
  CHECK(changed(driver + source + rest + "<alias name='virtio-disk0'/>") == disks_of(before)[0].comparable_xml);
  CHECK(changed(driver + source) != disks_of(before)[0].comparable_xml);
  CHECK(changed("<driver name='qemu' type='raw'/>" + source + rest) != disks_of(before)[0].comparable_xml);
}
