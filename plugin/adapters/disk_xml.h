// Which parts of a <disk> PoolShift understands, and what of it must be the same before and after a swap. The source:
// libvirt's schema (domaincommon.rng, "disk") and its documentation of the domain's format.
#pragma once

#include <pugixml.hpp>
#include <string>
#include <vector>

namespace poolshift {

// The parts that are not on the allow-list, each as a person finds it: "<slices> in <source>", "attribute 'tls' of
// <source>". A part that is on the list is either kept by both ways of changing the source (virDomainBlockCopy replaces
// nothing but the source, and redefined_disk_xml() keeps everything else), or is read and judged by validation.
std::vector<std::string> unsupported_parts(const pugi::xml_node& disk);

// The disk without its source and without what changes by itself: <alias>, <backingStore>, <mirror>, the values of
// <iotune>. Attributes and elements are in the order of their names. Contains no secret.
std::string comparable_disk(const pugi::xml_node& disk);

}  // namespace poolshift
