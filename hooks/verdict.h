// Whether a domain may start on the images that its XML names, by what the journals say of them. The rule and the
// reasons are in docs/adr/0010-which-starts-are-refused.md; the table is in verdict.cpp.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "adapters/domain_xml.h"
#include "base/image_name.h"
#include "engine/job_record.h"

namespace poolshift::hook {

// A disk that may not be started as the XML has it.
struct Objection {
  std::string disk;
  std::string sentence;             // what was found and what to do
  std::optional<ImageName> target;  // where all that the guest wrote is; empty: not known, or not reached the same way
};

// One for each disk about which there is something to say. `jobs`: the newest record of each job; those about other
// domains and images do no harm. `jobs_folder` is for the sentence.
std::vector<Objection> objections(const DomainDescription& domain, const std::vector<JobRecord>& jobs,
                                  const std::string& jobs_folder);

// The words of which a journal's record has at least one when it may lead to an objection.
std::vector<std::string> words_about(const DomainDescription& domain);

}  // namespace poolshift::hook
