// A program that the command asks something.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "outcome.h"

namespace poolshift::cli {

// Runs a program, found on PATH, with `input` on its stdin, and gives what it wrote to stdout; its stderr is ours. It
// is killed when it has not ended after `timeout_s`, also when it has closed its stdout. Fails when it cannot be
// started, and when it ends with anything but 0.
Outcome<std::string> output_of(const std::vector<std::string>& arguments, std::string_view input, int timeout_s);

}  // namespace poolshift::cli
