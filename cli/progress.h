// What is shown of a swap while it runs.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "document.h"
#include "options.h"

namespace poolshift::cli {

class Progress {
 public:
  virtual ~Progress() = default;

  // `status` is a running job's, as poolshift_job_wait() gives it. May be called as often as one likes.
  virtual void show(const Document& status) = 0;
  // Takes away what must not stay on the screen.
  virtual void clear() {}
  // A line on stderr that does not run into what is shown.
  void note(std::string_view line);
};

struct ProgressSurroundings {
  int human_fd = 1;  // where text for people goes: stderr when stdout has the report as JSON
  bool json_report = false;
  bool log_on_stderr = false;  // log lines would tear a bar
};

std::unique_ptr<Progress> make_progress(ProgressChoice choice, const ProgressSurroundings& surroundings);

// One line of at most `columns`: phase, per cent, MB/s and time left before anything else, then a bar, then
// bytes.
std::string render_bar(const Document& status, std::size_t columns);

// "copy 40 %, 1.2 GiB of 2.9 GiB, 112.0 MB/s, 0:14 left"
std::string render_line(const Document& status);

// Which of the statuses become a line: a new phase, every tenth per cent, every few seconds while bytes are
// counted.
class LinePacer {
 public:
  bool is_due(const Document& status, double now_s);

 private:
  std::string phase_;
  int tenth_ = -1;
  double last_s_ = 0;
};

}  // namespace poolshift::cli
