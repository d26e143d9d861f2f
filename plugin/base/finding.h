// What a look at a node has found: one sentence, how bad it is, and what to do about it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace poolshift {

// The names are durable: monitoring reads them.
enum class Severity {
  pass,  // as it should be
  info,  // good to know: what this node cannot do, or what cannot be known
  warn,  // swaps work, but something is not as it was meant
  fail,  // swaps do not work, a guest is in danger, or an operator is needed
};

constexpr std::string_view name_of(Severity severity) {
  switch (severity) {
    case Severity::pass: return "pass";
    case Severity::info: return "info";
    case Severity::warn: return "warn";
    case Severity::fail: return "fail";
  }
  return "fail";
}

struct Finding {
  std::string name;  // of a row of the table in poolshift(8)
  Severity severity = Severity::pass;
  std::string found;   // what was found and where
  std::string advice;  // what to do; may be empty for pass and info
};

inline Finding finding(const char* name, Severity severity, std::string found, std::string advice = "") {
  return {name, severity, std::move(found), std::move(advice)};
}

inline Finding finding(const char* name, Severity severity, const Error& error) {
  return {name, severity, error.message, error.advice};
}

using Findings = std::vector<Finding>;

// As JSON for people and programs: the keys of the report of 'poolshift doctor'.
template <class Json>
Json to_json(const Finding& each) {
  return {{"name", each.name}, {"result", name_of(each.severity)}, {"found", each.found}, {"do", each.advice}};
}

}  // namespace poolshift
