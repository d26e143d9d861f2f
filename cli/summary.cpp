#include "summary.h"

#include <fmt/core.h>

#include <initializer_list>

#include "sizes.h"
#include "table.h"
#include "text.h"

namespace poolshift::cli {

namespace {

std::string or_unknown(const std::string& text) { return text.empty() ? "unknown" : printable(text); }

// A refusal may come before domain and images were looked up: then less is known.
std::string what_of(const Document& report) {
  const auto domain = text_at(report, "domain");
  const auto disk = text_at(report, "disk");
  const auto images = images_of(report);
  if (domain.empty() || disk.empty()) return images;
  const auto subject = fmt::format("disk {} of {}", printable(disk), printable(domain));
  return images.empty() ? subject : fmt::format("{}: {}", subject, images);
}

class Lines {
 public:
  explicit Lines(std::size_t columns) : columns_(columns) {}

  void head(const std::string& text, const std::string& what = "") {
    add("", what.empty() ? text : fmt::format("{}: {}", text, what));
  }
  void add(const std::string& text) { add("  ", text); }
  // "name: what was found", then "do: ..." under it.
  void add_finding(const std::string& found, const std::string& advice) {
    add("  ", found);
    if (!advice.empty()) add("    ", "do: " + advice);
  }
  std::string text() const { return out_; }

 private:
  void add(const std::string& indent, const std::string& text) {
    const std::size_t room = columns_ > indent.size() + 20 ? columns_ - indent.size() : 0;
    std::string head = indent;
    for (const auto& line : wrapped(printable(text), room)) {
      out_ += head + line + "\n";
      head = std::string(indent.size() + 2, ' ');
    }
  }

  std::size_t columns_;
  std::string out_;
};

std::string bytes_or_unknown(const Document& report, const char* key) {
  const auto bytes = number_at(part_at(report, "bytes"), key);
  return bytes ? format_bytes(*bytes) : "unknown";
}

std::string times_of(const Document& report) {
  const auto& seconds = part_at(report, "seconds");
  std::string parts;
  for (const char* phase : {"validate", "prepare", "copy", "pivot", "hydrate", "retire", "undo"}) {
    const auto took = number_at(seconds, phase);
    if (!took || *took <= 0) continue;
    parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", phase, format_seconds(*took));
  }
  const auto total = number_at(seconds, "total");
  if (!total) return parts;
  return parts.empty() ? format_seconds(*total) : fmt::format("{} ({})", format_seconds(*total), parts);
}

void add_pause(Lines& lines, const Document& report) {
  const auto pause = number_at(part_at(report, "seconds"), "pause");
  if (true_at(report, "offline")) {
    lines.add("the guest was off");
  } else if (pause && *pause > 0) {
    lines.add(fmt::format("the guest was paused for {}", format_seconds(*pause)));
  } else if (pause) {
    lines.add("the guest was not paused");
  }
}

void add_notes(Lines& lines, const Document& report) {
  for (const auto& note : part_at(report, "notes")) {
    if (note.is_string()) lines.add("note: " + note.get<std::string>());
  }
}

std::string way_of(const Document& report) {
  const auto method = text_at(part_at(report, "hydration"), "method");
  if (method == "offload") return "copied by the OSDs";
  if (method == "flatten") return true_at(report, "offline") ? "copied by librbd" : "copied by QEMU";
  return "gone through";
}

void add_done(Lines& lines, const Document& report) {
  lines.head("done", what_of(report));
  lines.add(fmt::format("job {}, engine {}, {}", or_unknown(text_at(report, "job")),
                        or_unknown(text_at(report, "engine")), times_of(report)));
  lines.add(fmt::format("{} {}; the target uses {} of {}, the source used {}", bytes_or_unknown(report, "copied"),
                        way_of(report), bytes_or_unknown(report, "target_used"), bytes_or_unknown(report, "virtual"),
                        bytes_or_unknown(report, "source_used")));
  add_pause(lines, report);
  if (const auto how = text_at(report, "convergence"); !how.empty()) lines.add("convergence: " + how);
}

void add_checks(Lines& lines, const Document& report, const std::string& result) {
  for (const auto& check : part_at(report, "checks")) {
    if (text_at(check, "result") != result) continue;
    lines.add_finding(fmt::format("{}: {}", text_at(check, "name"), text_at(check, "found")), text_at(check, "do"));
  }
}

bool any_refusal(const Document& report) {
  for (const auto& check : part_at(report, "checks")) {
    if (text_at(check, "result") == "refuse") return true;
  }
  return false;
}

void add_error(Lines& lines, const Document& report) {
  const auto& error = part_at(report, "error");
  if (!error.is_null()) lines.add_finding(text_at(error, "message"), text_at(error, "advice"));
}

void add_next_commands(Lines& lines, const Document& report, const std::string& host_arguments) {
  const auto job = or_unknown(text_at(report, "job"));
  lines.add(fmt::format("what is known: poolshift status {}{}", job, host_arguments));
  lines.add(fmt::format("to go on, when the cause is gone: poolshift recover {}{}", job, host_arguments));
}

// "plan" is an object, so that callers can read it; here are its keys in words. Unknown ones are left out.
std::string plan_text(const Document& report) {
  const auto& plan = part_at(report, "plan");
  if (!plan.is_object()) return "";
  Lines lines(0);
  lines.head("plan");
  const auto reason = text_at(plan, "engine_reason");
  lines.add(fmt::format("engine {}{}{}", or_unknown(text_at(plan, "engine")), reason.empty() ? "" : ": ", reason));
  if (const auto& hydration = part_at(plan, "hydration"); hydration.is_object()) {
    lines.add(fmt::format("hydration by {}: {}", text_at(hydration, "method"), text_at(hydration, "reason")));
  }
  const auto size = number_at(plan, "target_bytes_after");
  lines.add(fmt::format("{} {}{}", text_at(report, "target"),
                        true_at(plan, "creates_target") ? "is created" : "exists and is used",
                        size ? fmt::format("; the disk will have {}", format_bytes(*size)) : ""));
  const auto limit = number_at(plan, "bandwidth_bytes_per_s").value_or(0);
  lines.add(limit > 0 ? fmt::format("the copy takes at most {} a second", format_bytes(limit))
                      : std::string("the copy has no bandwidth limit"));
  lines.add(fmt::format("{} {} afterwards", text_at(report, "source"),
                        text_at(plan, "source_after") == "trash" ? "goes to the trash" : "is kept"));
  return "\n" + lines.text();
}

}  // namespace

std::string summary_of(const Document& report, const std::string& host_arguments, std::size_t columns) {
  Lines lines(columns);
  const auto state = text_at(report, "state");
  if (state == "done") {
    add_done(lines, report);
    add_checks(lines, report, "warn");
  } else if (state == "refused") {
    lines.head("refused, nothing was changed", what_of(report));
    add_checks(lines, report, "refuse");
    if (!any_refusal(report)) add_error(lines, report);
  } else if (state == "undone" || state == "cancelled") {
    lines.head(state == "undone" ? "failed and undone" : "cancelled and undone", what_of(report));
    if (state == "undone") add_error(lines, report);
  } else {
    lines.head(or_unknown(state), what_of(report));
    add_error(lines, report);
    add_next_commands(lines, report, host_arguments);
  }
  add_notes(lines, report);
  lines.add(fmt::format("the guest is on: {}", or_unknown(text_at(report, "guest_on"))));
  return lines.text();
}

std::string check_text(const Document& report, std::size_t columns) {
  const auto what = what_of(report);
  const auto text = (what.empty() ? "" : what + "\n\n") + checks_table(part_at(report, "checks"), "CHECK", columns);
  if (text_at(report, "state") == "refused") {
    Lines lines(columns);
    lines.head("a swap would be refused");
    if (!any_refusal(report)) add_error(lines, report);
    return text + "\n" + lines.text();
  }
  return text + plan_text(report);
}

}  // namespace poolshift::cli
