// Which swaps a domain that has just started or stopped asks for, by a request in its metadata or by the policy.
#pragma once

#include <string>
#include <vector>

#include "adapters/domain_xml.h"
#include "base/result.h"
#include "policy.h"
#include "spool/spool_request.h"

namespace poolshift::hook {

inline constexpr const char* kMetadataNamespace = "https://poolshift.dev/xmlns/1";

struct Asked {
  std::vector<SpoolRequest> requests;
  std::vector<Error> errors;  // requests in the metadata that cannot be understood, one each
};

Asked asked_for(Event event, const DomainDescription& domain, const Policy& policy);

}  // namespace poolshift::hook
