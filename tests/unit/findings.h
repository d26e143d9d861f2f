// What the tests of the doctor ask of its findings.
#pragma once

#include <algorithm>
#include <catch2/catch.hpp>
#include <iterator>
#include <string>
#include <vector>

#include "base/finding.h"

namespace poolshift {

inline Findings named(const Findings& findings, const std::string& name) {
  Findings found;
  std::copy_if(findings.begin(), findings.end(), std::back_inserter(found),
               [&](const Finding& each) { return each.name == name; });
  return found;
}

// The one finding of this name.
inline Finding only(const Findings& findings, const std::string& name) {
  const auto found = named(findings, name);
  INFO(name);
  REQUIRE(found.size() == 1);
  return found.front();
}

inline bool says(const Finding& finding, const std::string& words) {
  return finding.found.find(words) != std::string::npos;
}

}  // namespace poolshift
