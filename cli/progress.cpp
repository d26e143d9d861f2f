#include "progress.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <initializer_list>

#include "output.h"
#include "sizes.h"
#include "table.h"
#include "text.h"

namespace poolshift::cli {

namespace {

constexpr double kLineSeconds = 5;
constexpr double kQuietSeconds = 60;  // while there are no numbers that could change
constexpr double kJsonSeconds = 1;
constexpr std::size_t kForcedColumns = 80;  // --progress bar without a terminal
constexpr std::size_t kGap = 2;             // between the pieces of a bar
constexpr std::size_t kLeastBar = 8;
constexpr std::size_t kMostBar = 40;

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::string phase_of(const Document& status) {
  auto phase = printable(text_at(status, "phase"));
  return phase.empty() ? "starting" : phase;
}

// What a bar can show; empty: unknown.
struct Pieces {
  std::string phase, percent, bytes, rate, left, step;
  int percent_number = -1;
};

Pieces pieces_of(const Document& status) {
  const auto& progress = part_at(status, "progress");
  Pieces pieces;
  pieces.phase = phase_of(status);
  pieces.step = printable(text_at(progress, "step"));
  if (pieces.step == pieces.phase) pieces.step.clear();
  if (const auto percent = percent_of(progress)) {
    pieces.percent_number = *percent;
    pieces.percent = fmt::format("{:3} %", *percent);
    pieces.bytes = fmt::format("{} of {}", format_bytes(number_at(progress, "done_bytes").value_or(0)),
                               format_bytes(number_at(progress, "total_bytes").value_or(0)));
    if (const auto rate = rate_of(progress)) pieces.rate = format_rate(*rate);
  }
  if (const auto left = seconds_left(progress)) pieces.left = format_clock(*left) + " left";
  return pieces;
}

std::string drawn_bar(int percent, std::size_t columns) {
  const std::size_t inner = columns - 2;
  const std::size_t full = inner * static_cast<std::size_t>(percent) / 100;
  auto bar = std::string(full, '=');
  if (full < inner) bar += '>';
  bar.resize(inner, ' ');
  return "[" + bar + "]";
}

// The most important piece comes first.
void drop_what_does_not_fit(std::initializer_list<std::string*> pieces, std::size_t columns, std::size_t& used) {
  for (auto* piece : pieces) {
    if (piece->empty()) continue;
    if (used + kGap + display_width(*piece) > columns) {
      piece->clear();
    } else {
      used += kGap + display_width(*piece);
    }
  }
}

// Says which job it is, so that 'poolshift cancel' and 'poolshift status' can be used from another shell.
class Announcement {
 public:
  explicit Announcement(int fd) : fd_(fd) {}

  void show(const Document& status) {
    const auto images = images_of(status);
    // Before it has them, it has no journal by which others could find it.
    if (made_ || images.empty()) return;
    made_ = true;
    write_line(fd_, fmt::format("job {}: {}", printable(text_at(status, "job")), images));
  }

 private:
  int fd_;
  bool made_ = false;
};

class Bar : public Progress {
 public:
  explicit Bar(int fd) : fd_(fd), announcement_(fd) {}
  ~Bar() override { clear(); }

  void show(const Document& status) override {
    announcement_.show(status);
    const auto columns = columns_of(fd_);
    // The last column stays free: a terminal that wraps there could not be redrawn in place.
    const auto line = render_bar(status, columns ? columns - 1 : kForcedColumns - 1);
    write_text(fd_, "\r" + line + "\033[K");
    drawn_ = true;
  }
  void clear() override {
    if (drawn_) write_text(fd_, "\r\033[K");
    drawn_ = false;
  }

 private:
  int fd_;
  Announcement announcement_;
  bool drawn_ = false;
};

class Lines : public Progress {
 public:
  explicit Lines(int fd) : fd_(fd), announcement_(fd) {}

  void show(const Document& status) override {
    announcement_.show(status);
    if (pacer_.is_due(status, now_s())) write_line(fd_, render_line(status));
  }

 private:
  int fd_;
  Announcement announcement_;
  LinePacer pacer_;
};

class JsonLines : public Progress {
 public:
  void show(const Document& status) override {
    const auto now = now_s();
    const auto phase = text_at(status, "phase");
    if (phase == phase_ && now - last_s_ < kJsonSeconds) return;
    phase_ = phase;
    last_s_ = now;
    write_document(status);
  }

 private:
  std::string phase_;
  double last_s_ = 0;
};

class Nothing : public Progress {
 public:
  void show(const Document&) override {}
};

}  // namespace

void Progress::note(std::string_view line) {
  clear();
  write_line(kStderr, line);
}

std::unique_ptr<Progress> make_progress(ProgressChoice choice, const ProgressSurroundings& surroundings) {
  const int fd = surroundings.human_fd;
  switch (choice) {
    case ProgressChoice::none: return std::make_unique<Nothing>();
    case ProgressChoice::json: return std::make_unique<JsonLines>();
    case ProgressChoice::bar: return std::make_unique<Bar>(fd);
    case ProgressChoice::automatic: break;
  }
  const bool torn_by_log = surroundings.log_on_stderr && is_terminal(kStderr);
  if (is_terminal(fd) && !torn_by_log) return std::make_unique<Bar>(fd);
  if (surroundings.json_report && !is_terminal(fd)) return std::make_unique<Nothing>();
  return std::make_unique<Lines>(fd);
}

std::string render_bar(const Document& status, std::size_t columns) {
  auto pieces = pieces_of(status);
  std::size_t used = display_width(pieces.phase);
  drop_what_does_not_fit({&pieces.percent, &pieces.rate, &pieces.left}, columns, used);
  std::string bar;
  if (pieces.percent_number >= 0 && columns >= used + kGap + kLeastBar) {
    bar = drawn_bar(pieces.percent_number, std::min(columns - used - kGap, kMostBar));
    used += kGap + bar.size();
  }
  drop_what_does_not_fit({&pieces.step, &pieces.bytes}, columns, used);
  std::string line = pieces.phase;
  for (const auto& piece : {pieces.percent, bar, pieces.bytes, pieces.rate, pieces.left, pieces.step}) {
    if (!piece.empty()) line += std::string(kGap, ' ') + piece;
  }
  return clipped(line, columns);
}

std::string render_line(const Document& status) {
  const auto pieces = pieces_of(status);
  std::string line = pieces.phase;
  if (pieces.percent_number >= 0) line += fmt::format(" {} %", pieces.percent_number);
  for (const auto& piece : {pieces.bytes, pieces.rate, pieces.left, pieces.step}) {
    if (!piece.empty()) line += ", " + piece;
  }
  return line;
}

bool LinePacer::is_due(const Document& status, double now_s) {
  const auto phase = phase_of(status);
  const auto percent = percent_of(part_at(status, "progress"));
  const int tenth = percent.value_or(0) / 10;
  const double pause_s = percent ? kLineSeconds : kQuietSeconds;
  if (phase == phase_ && tenth == tenth_ && now_s - last_s_ < pause_s) return false;
  phase_ = phase;
  tenth_ = tenth;
  last_s_ = now_s;
  return true;
}

}  // namespace poolshift::cli
