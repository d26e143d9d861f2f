// A domain for the tests of the qemu hook.
#pragma once

#include <fstream>
#include <sstream>
#include <string>

#include "adapters/domain_xml.h"

namespace poolshift::hook {

inline constexpr const char* kWebUuid = "6f1d0c3a-2f0e-4b8e-9a53-0d8c3c2f7a11";

inline constexpr const char* kNovaMetadata =
    "<nova:instance xmlns:nova=\"http://openstack.org/xmlns/libvirt/nova/1.1\"><nova:package version=\"26.2.2\"/>"
    "<nova:name>web</nova:name><nova:flavor name=\"m1.small\"><nova:memory>256</nova:memory></nova:flavor>"
    "</nova:instance>";

// Domain "web": vda on hdd/web, vdb on hdd/ns/data, vdc on a file, sda a CD-ROM on hdd/cd.
inline std::string web_xml(const std::string& metadata = "") {
  std::ifstream file(std::string(POOLSHIFT_TEST_DATA) + "/hook/web.xml");
  std::ostringstream content;
  content << file.rdbuf();
  auto xml = content.str();
  const std::string place = "METADATA";
  return xml.replace(xml.find(place), place.size(), metadata);
}

inline DomainDescription web(const std::string& metadata = "") { return *parse_domain_xml(web_xml(metadata)); }

}  // namespace poolshift::hook
