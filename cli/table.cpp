#include "table.h"

#include <fmt/core.h>

#include <algorithm>

#include "sizes.h"
#include "text.h"

namespace poolshift::cli {

namespace {

constexpr std::size_t kGap = 2;
constexpr std::size_t kLeastLastColumn = 20;

std::string padded(const std::string& text, std::size_t columns) {
  const auto width = display_width(text);
  return text + std::string(width < columns ? columns - width : 0, ' ');
}

std::string without_trailing_spaces(std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

std::string age_of(const Document& job, double now_s) {
  const auto started_ms = number_at(job, "started_wall_ms");
  return started_ms ? format_age(now_s - *started_ms / 1000) : "-";
}

std::string or_dash(std::string text) { return text.empty() ? "-" : printable(text); }

std::string percent_text(const Document& job) {
  if (text_at(job, "state") == "done") return "100 %";
  const auto percent = percent_of(part_at(job, "progress"));
  return percent ? fmt::format("{} %", *percent) : "-";
}

// What stands in the way has to stand out in a long table.
std::string emphasised(const std::string& result) {
  if (result == "refuse") return "REFUSE";
  if (result == "fail") return "FAIL";
  return result;
}

class Facts {
 public:
  explicit Facts(std::size_t columns) : columns_(columns) {}

  void add(const std::string& name, const std::string& value) {
    if (value.empty()) return;
    const std::size_t room = columns_ > kIndent + kLeastLastColumn ? columns_ - kIndent : 0;
    std::string head = padded(name, kIndent);
    for (const auto& line : wrapped(printable(value), room)) {
      out_ += without_trailing_spaces(head + line) + "\n";
      head = std::string(kIndent, ' ');
    }
  }
  std::string text() const { return out_; }

 private:
  static constexpr std::size_t kIndent = 12;
  std::size_t columns_;
  std::string out_;
};

std::string progress_text(const Document& progress) {
  const auto done = number_at(progress, "done_bytes");
  const auto total = number_at(progress, "total_bytes");
  const auto percent = percent_of(progress);
  if (!done || !total || !percent) return text_at(progress, "step");
  auto text = fmt::format("{} %, {} of {}", *percent, format_bytes(*done), format_bytes(*total));
  if (const auto rate = rate_of(progress)) text += ", " + format_rate(*rate);
  if (const auto left = seconds_left(progress)) text += fmt::format(", {} left", format_clock(*left));
  if (const auto step = text_at(progress, "step"); !step.empty()) text += fmt::format(" ({})", step);
  return text;
}

}  // namespace

void Table::add_below(const std::string& text) {
  std::vector<std::string> row(rows_.front().size());
  row.back() = text;
  rows_.push_back(std::move(row));
}

std::string Table::render(std::size_t columns) const {
  const std::size_t last = rows_.front().size() - 1;
  std::vector<std::size_t> widths(last, 0);
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < last; ++i) widths[i] = std::max(widths[i], display_width(row[i]));
  }
  std::size_t indent = 0;
  for (const auto width : widths) indent += width + kGap;
  // On a terminal too narrow for it the last column is left to the terminal to break.
  const std::size_t room = columns >= indent + kLeastLastColumn ? columns - indent : 0;
  std::string out;
  for (const auto& row : rows_) {
    std::string head;
    for (std::size_t i = 0; i < last; ++i) head += padded(row[i], widths[i] + kGap);
    for (const auto& line : wrapped(row[last], room)) {
      out += without_trailing_spaces(head + line) + "\n";
      head = std::string(indent, ' ');
    }
  }
  return out;
}

std::string checks_table(const Document& checks, const char* name_head, std::size_t columns) {
  Table table({"RESULT", name_head, "FOUND"});
  for (const auto& check : checks) {
    const auto result = text_at(check, "result");
    table.add({or_dash(emphasised(result)), or_dash(text_at(check, "name")), or_dash(text_at(check, "found"))});
    const auto advice = text_at(check, "do");
    if (result != "pass" && !advice.empty()) table.add_below("do: " + printable(advice));
  }
  return table.render(columns);
}

std::string state_of(const Document& job) {
  const auto state = text_at(job, "state");
  const auto phase = text_at(job, "phase");
  return true_at(job, "running") || state.empty() ? phase : state;
}

std::optional<int> percent_of(const Document& progress) {
  const auto done = number_at(progress, "done_bytes");
  const auto total = number_at(progress, "total_bytes");
  if (!done || !total || *total <= 0) return std::nullopt;
  return static_cast<int>(std::clamp(*done / *total, 0.0, 1.0) * 100);
}

std::optional<double> rate_of(const Document& progress) {
  const auto rate = number_at(progress, "bytes_per_s");
  return rate && *rate > 0 ? rate : std::nullopt;
}

std::optional<double> seconds_left(const Document& progress) {
  const auto left = number_at(progress, "left_s");
  return left && *left >= 0 ? left : std::nullopt;
}

std::string jobs_table(const Document& jobs, double now_s, std::size_t columns) {
  Table table({"JOB", "STATE", "GUEST ON", "DONE", "AGE", "DOMAIN", "DISK", "SOURCE -> TARGET"});
  for (const auto& job : jobs) {
    table.add({or_dash(text_at(job, "job")), or_dash(state_of(job)), or_dash(text_at(job, "guest_on")),
               percent_text(job), age_of(job, now_s), or_dash(text_at(job, "domain")), or_dash(text_at(job, "disk")),
               or_dash(text_at(job, "source")) + " -> " + or_dash(text_at(job, "target"))});
  }
  return table.render(columns);
}

std::string job_details(const Document& job, double now_s, std::size_t columns) {
  Facts facts(columns);
  facts.add("job", text_at(job, "job"));
  const bool stopped = !true_at(job, "running") && text_at(job, "state") == "held";
  facts.add("state", stopped ? fmt::format("held in phase {}", text_at(job, "phase")) : state_of(job));
  facts.add("guest on", text_at(job, "guest_on"));
  facts.add("domain", text_at(job, "domain"));
  facts.add("disk", text_at(job, "disk"));
  facts.add("source", text_at(job, "source"));
  facts.add("target", text_at(job, "target"));
  facts.add("engine", text_at(job, "engine"));
  facts.add("progress", progress_text(part_at(job, "progress")));
  facts.add("age", age_of(job, now_s));
  if (const auto total = number_at(part_at(job, "seconds"), "total")) facts.add("took", format_seconds(*total));
  facts.add("converged", text_at(job, "convergence"));
  facts.add("error", text_at(part_at(job, "error"), "message"));
  facts.add("do", text_at(part_at(job, "error"), "advice"));
  for (const auto& note : part_at(job, "notes")) {
    if (note.is_string()) facts.add("note", note.get<std::string>());
  }
  return facts.text();
}

}  // namespace poolshift::cli
