// Tables for people.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "document.h"

namespace poolshift::cli {

// Columns as wide as their widest cell; the last one is broken to fit `columns` (0: never).
class Table {
 public:
  explicit Table(std::vector<std::string> heads) : rows_{std::move(heads)} {}

  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  // Text in the last column only, under the last row.
  void add_below(const std::string& text);
  std::string render(std::size_t columns) const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// Both for "checks" of a report and "findings" of the doctor.
std::string checks_table(const Document& checks, const char* name_head, std::size_t columns);

// `now_s`: seconds since the epoch.
std::string jobs_table(const Document& jobs, double now_s, std::size_t columns);

// One job in detail, a line for each fact that is known.
std::string job_details(const Document& job, double now_s, std::size_t columns);

// "copy" while it runs, else "done", "held", ...
std::string state_of(const Document& job);

// 0 to 100; 100 is given only to what is complete.
std::optional<int> percent_of(const Document& progress);

// Each is empty when the library does not know either.
std::optional<double> rate_of(const Document& progress);  // bytes per second
std::optional<double> seconds_left(const Document& progress);

}  // namespace poolshift::cli
