#include "drain_table.h"

#include <fmt/core.h>

#include <algorithm>
#include <sstream>

#include "output.h"
#include "sizes.h"
#include "table.h"
#include "text.h"

namespace poolshift::cli {

namespace {

constexpr std::size_t kLinesBelow = 2;  // the total, and where the cursor is

std::string shown_state(const DrainLine& line) { return line.state == "running" ? state_of(line.status) : line.state; }

std::string progress_of(const DrainLine& line) {
  if (line.state == "done") return "100 %";
  const auto& progress = part_at(line.status, "progress");
  const auto percent = line.state == "running" ? percent_of(progress) : std::nullopt;
  if (!percent) return "-";
  auto text = fmt::format("{} %", *percent);
  if (const auto rate = rate_of(progress)) text += ", " + format_rate(*rate);
  return text;
}

std::size_t count(const std::vector<DrainLine>& lines, const std::string& state) {
  return static_cast<std::size_t>(
      std::count_if(lines.begin(), lines.end(), [&](const DrainLine& line) { return line.state == state; }));
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

}  // namespace

std::string drain_table(const std::vector<DrainLine>& lines, std::size_t columns, std::size_t rows) {
  // What is over matters least while others run.
  std::vector<const DrainLine*> chosen;
  for (const auto& line : lines) chosen.push_back(&line);
  if (rows > 0 && chosen.size() + 1 > rows) {
    const auto rank = [](const DrainLine* line) {
      return line->state == "running" ? 0 : line->state == "held" ? 1 : line->state == "waiting" ? 2 : 3;
    };
    std::stable_sort(chosen.begin(), chosen.end(),
                     [&](const auto* one, const auto* other) { return rank(one) < rank(other); });
    chosen.resize(rows > 1 ? rows - 1 : 0);
  }
  Table table({"DOMAIN", "DISK", "STATE", "DONE", "JOB", "SOURCE -> TARGET"});
  for (const auto* line : chosen) {
    table.add({printable(line->domain), printable(line->disk), printable(shown_state(*line)), progress_of(*line),
               line->job.empty() ? "-" : printable(line->job),
               printable(line->source) + " -> " + printable(line->target)});
    if (rows == 0 && !line->why.empty()) table.add_below(printable(line->why));
  }
  return table.render(rows == 0 ? columns : 0);
}

std::string drain_total(const std::vector<DrainLine>& lines) {
  const auto would_move = count(lines, "would move");
  auto text = would_move > 0 ? fmt::format("{} of {} disks would move", would_move, lines.size())
                             : fmt::format("{} of {} disks moved", count(lines, "done"), lines.size());
  for (const auto* state :
       {"running", "waiting", "held", "refused", "undone", "cancelled", "removed", "failed", "left out"}) {
    if (const auto found = count(lines, state); found > 0) text += fmt::format(", {} {}", found, state);
  }
  return text;
}

DrainView::DrainView(int fd) : fd_(fd), in_place_(is_terminal(fd)) {}

void DrainView::clear() {
  if (drawn_ > 0) write_text(fd_, fmt::format("\033[{}A\r\033[J", drawn_));
  drawn_ = 0;
}

void DrainView::note(const std::string& text) {
  clear();
  write_line(fd_, printable(text));
}

void DrainView::show(const std::vector<DrainLine>& lines) {
  if (in_place_) {
    const auto columns = columns_of(fd_);
    const auto rows = rows_of(fd_);
    auto text = split(drain_table(lines, columns, rows > kLinesBelow ? rows - kLinesBelow : 1));
    text.push_back(drain_total(lines));
    std::string drawn;
    for (const auto& line : text) drawn += clipped(line, columns - 1) + "\n";
    clear();
    write_text(fd_, drawn);
    drawn_ = text.size();
    return;
  }
  for (const auto& line : lines) {
    auto& state = states_[line.domain + " " + line.disk];
    if (state == shown_state(line)) continue;
    state = shown_state(line);
    if (state == "waiting") continue;
    write_line(fd_, fmt::format("{} {}: {}{}{}; {}", printable(line.domain), printable(line.disk), printable(state),
                                line.why.empty() ? "" : ": ", printable(line.why), drain_total(lines)));
  }
}

}  // namespace poolshift::cli
