// The XML files are what libvirt 9.0 with QEMU 7.2 wrote during one block copy, one overlay and one active
// commit.
#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>
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
