// The library's own log: nothing until a host asks for it, in a file, in systemd's journal, or in both.
#pragma once

#include <spdlog/spdlog.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace poolshift {

spdlog::logger& log();

// `file` empty: none; "-": stderr. `level` is spdlog's: trace, debug, info, warning, error, critical, off. With
// `journald` it goes to systemd's journal too, with the fields of LogFields; where there is no journald nothing
// happens.
Status open_log(const std::string& file, const std::string& level, bool journald);

// Whether somebody listens to what is sent to systemd's journal.
bool journald_is_there();

// As syslog(3) and the journal's field PRIORITY have it.
int syslog_priority_of(spdlog::level::level_enum level);

// What this thread logs, as long as this lives, has these fields in systemd's journal. They are asked for at each
// message. The fields of those that were made before count as well, but for names that this one has.
class LogFields {
 public:
  using List = std::vector<std::pair<std::string, std::string>>;

  explicit LogFields(std::function<List()> fields);
  ~LogFields();
  LogFields(const LogFields&) = delete;
  LogFields& operator=(const LogFields&) = delete;

  // Of this thread now.
  static List current();

 private:
  const std::function<List()> fields_;
  const LogFields* const outer_;
};

}  // namespace poolshift
