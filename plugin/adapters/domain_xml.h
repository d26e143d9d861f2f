// What PoolShift reads of a libvirt domain's XML, and what it writes of it. Pure functions: no
// libvirt. Also used by the qemu hook, which gets the XML on its standard input.
//
// The text may be anything: entities and document types are not expanded (pugixml does neither), the size is
// bounded, and what is not understood is left out of the answer.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "ports/hypervisor.h"

namespace poolshift {

inline constexpr std::size_t kMaxDomainXmlBytes = 16 * 1024 * 1024;

// An element below the domain's <metadata>, at whatever depth.
struct MetadataElement {
  std::string namespace_uri;                      // which its prefix stands for; empty: it is in no namespace
  std::string name;                               // without the prefix
  std::map<std::string, std::string> attributes;  // without declarations of namespaces
  std::string text;                               // directly in it
};

struct DomainDescription {
  std::string uuid;
  std::string name;
  std::vector<Disk> disks;                // in the order of the XML; CD-ROMs and floppies too
  std::vector<MetadataElement> metadata;  // in the order of the XML
};

// `failed` when it is not the XML of a domain, is longer than kMaxDomainXmlBytes, or has more disks or more metadata
// than a machine can have.
Result<DomainDescription> parse_domain_xml(std::string_view xml);

// Nova's metadata is in it: OpenStack has records of its disks that PoolShift does not change by itself.
bool is_openstack(const DomainDescription& domain);

// The index that libvirt gave to the target of the copy on `disk` ("index" of <mirror><source>): its
// statistics have no other name. Empty when there is no copy.
std::optional<unsigned> mirror_source_index(std::string_view domain_xml, const std::string& disk);

// The <disk> for virDomainBlockCopy. The access is `options.access`, but its configuration file is written
// only when the disk that is copied names one too: the domain's XML keeps what is written here for as long as
// it lives, and a file that PoolShift was told to read may not be there for QEMU.
std::string mirror_target_xml(const MirrorOptions& options, const std::string& source_conf_path);

// The configuration file that the disk's source names, or the image below it when that is an overlay.
std::string conf_path_below(std::string_view domain_xml, const std::string& disk);

// The domain's XML in which these RBD disks have images of other names; everything else as it was. `not_found`: no such
// disk.
Result<std::string> renamed_images_xml(std::string_view domain_xml, const std::map<std::string, ImageName>& images);

enum class CommitState { none, under_way, ready };

// Of an active commit, by the live XML.
CommitState commit_state(std::string_view domain_xml, const std::string& disk);

// The <domainsnapshot> for an overlay on one of the domain's disks. A disk that it does not name would get one too.
std::string overlay_xml(const std::vector<std::string>& all_disks, const std::string& disk,
                        const std::string& overlay_path);

// The disk's element of the domain's XML with `image` in the place of its source; everything else as it was. A source
// that is reached the same way only gets another name. `not_found`: no such disk.
Result<std::string> redefined_disk_xml(std::string_view domain_xml, const std::string& disk, const ImageName& image,
                                       const ClusterAccess& access);

}  // namespace poolshift
