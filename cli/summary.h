// What is said to people at the end of a swap.
#pragma once

#include <cstddef>
#include <string>

#include "document.h"

namespace poolshift::cli {

// A few lines. `host_arguments` is what commands that we advise have to be given (HostOptions::as_given).
std::string summary_of(const Document& report, const std::string& host_arguments, std::size_t columns);

// The table of checks and the plan of `check` and `swap --dry-run`.
std::string check_text(const Document& report, std::size_t columns);

}  // namespace poolshift::cli
