// The library's own log: nothing until a host asks for a file.
#pragma once

#include <spdlog/spdlog.h>

#include <string>

#include "base/result.h"

namespace poolshift {

spdlog::logger& log();

// `file` empty: no log; "-": stderr. `level` is spdlog's: trace, debug, info, warning, error, critical, off.
Status open_log(const std::string& file, const std::string& level);

}  // namespace poolshift
