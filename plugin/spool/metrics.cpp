#include "spool/metrics.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>
#include <vector>

#include "spool/job_json.h"

namespace poolshift {

using nlohmann::json;

namespace {

// Of a job whose journal cannot be read nothing is known; "unknown" then.
constexpr std::array<std::string_view, 3> kEngines = {"handover", "mirror", "unknown"};
constexpr std::array<std::string_view, 2> kOpenStates = {"open", "held"};
constexpr std::array<std::string_view, 3> kEndStates = {"cancelled", "done", "undone"};
constexpr std::array<std::string_view, 7> kPhases = {"validate", "prepare", "copy", "pivot",
                                                     "hydrate",  "retire",  "undo"};
// The pause that an operator expects is below a second; --max-pause is at most 60.
constexpr std::array kPauseBuckets_s = {0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0};

using Labels = std::vector<std::pair<std::string_view, std::string>>;

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
      continue;
    }
    if (c == '\\' || c == '"') out += '\\';
    out += c;
  }
  return out;
}

class Writer {
 public:
  // What follows belongs to it.
  void family(std::string_view name, std::string_view type, std::string_view help) {
    text_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
    name_ = name;
  }

  template <class Number>
  void sample(const Labels& labels, Number value, std::string_view suffix = "") {
    std::string list;
    for (const auto& [label, content] : labels) {
      list += fmt::format("{}{}=\"{}\"", list.empty() ? "" : ",", label, escaped(content));
    }
    if (!list.empty()) list = "{" + list + "}";
    text_ += fmt::format("{}{}{} {}\n", name_, suffix, list, value);
  }

  std::string take() { return std::move(text_); }

 private:
  std::string text_;
  std::string_view name_;
};

double number_of(const json& object, const char* key) {
  const auto value = part_at(object, key);
  return value.is_number() ? value.get<double>() : 0;
}

std::uint64_t whole_number_of(const json& object, const char* key) {
  const auto value = part_at(object, key);
  return value.is_number_integer() && value >= 0 ? value.get<std::uint64_t>() : 0;
}

double seconds_of_ms(const json& object, const char* key) { return number_of(object, key) / 1000; }

template <class List>
bool is_one_of(const List& list, std::string_view word) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

// The engine as a label: one of kEngines, whatever a newer version calls its own.
std::string engine_of(const json& job) {
  auto engine = text_at(job, "engine");
  return is_one_of(kEngines, engine) ? engine : "unknown";
}

struct Sum {
  std::uint64_t count = 0;
  double sum = 0;

  void add(double value) {
    ++count;
    sum += value;
  }
};

// Of the jobs that have ended.
struct Ended {
  std::map<std::pair<std::string, std::string>, std::uint64_t> jobs;  // by state and engine
  std::map<std::string, std::uint64_t> copied_bytes;                  // by engine
  std::map<std::pair<std::string, std::string>, Sum> phases;          // by phase and engine
  std::array<std::uint64_t, kPauseBuckets_s.size()> pauses_up_to{};   // that took at most so long
  Sum pauses;

  void add(const json& job) {
    const auto engine = engine_of(job);
    ++jobs[{text_at(job, "state"), engine}];
    copied_bytes[engine] += whole_number_of(part_at(job, "bytes"), "copied");
    const auto seconds = part_at(job, "seconds");
    for (const auto phase : kPhases) {
      const auto took_s = number_of(seconds, std::string(phase).c_str());
      if (took_s > 0) phases[{std::string(phase), engine}].add(took_s);
    }
    const auto pause_s = number_of(seconds, "pause");
    if (pause_s <= 0) return;
    pauses.add(pause_s);
    for (std::size_t i = 0; i < kPauseBuckets_s.size(); ++i) pauses_up_to[i] += pause_s <= kPauseBuckets_s[i] ? 1 : 0;
  }
};

void write_ended(Writer& out, Ended& ended) {
  out.family("poolshift_jobs_ended_total", "counter", "Jobs that have ended, by how and by engine.");
  for (const auto state : kEndStates) {
    for (const auto engine : kEngines) {
      out.sample({{"state", std::string(state)}, {"engine", std::string(engine)}},
                 ended.jobs[{std::string(state), std::string(engine)}]);
    }
  }
  out.family("poolshift_copied_bytes_total", "counter", "Bytes that ended jobs have copied, by engine.");
  for (const auto engine : kEngines) {
    out.sample({{"engine", std::string(engine)}}, ended.copied_bytes[std::string(engine)]);
  }
  out.family("poolshift_phase_duration_seconds", "summary",
             "Seconds that the phases of ended jobs took, by engine; pivot is with the phase pause.");
  for (const auto& [labels, sum] : ended.phases) {
    const Labels both = {{"phase", labels.first}, {"engine", labels.second}};
    out.sample(both, sum.sum, "_sum");
    out.sample(both, sum.count, "_count");
  }
  out.family("poolshift_pause_duration_seconds", "histogram",
             "Seconds for which ended jobs had their guest suspended; mirror suspends none.");
  for (std::size_t i = 0; i < kPauseBuckets_s.size(); ++i) {
    out.sample({{"le", fmt::format("{}", kPauseBuckets_s[i])}}, ended.pauses_up_to[i], "_bucket");
  }
  out.sample({{"le", "+Inf"}}, ended.pauses.count, "_bucket");
  out.sample({}, ended.pauses.sum, "_sum");
  out.sample({}, ended.pauses.count, "_count");
}

// Not "job": so Prometheus calls what it scrapes.
Labels labels_of(const json& job) {
  return {{"job_id", text_at(job, "job")}, {"domain", text_at(job, "domain")}, {"disk", text_at(job, "disk")}};
}

void write_open(Writer& out, const std::vector<json>& open) {
  out.family("poolshift_job_info", "gauge", "1 for each job that has not ended; its labels say what it is.");
  for (const auto& job : open) {
    auto labels = labels_of(job);
    labels.emplace_back("engine", engine_of(job));
    for (const auto* key : {"state", "phase", "guest_on", "source", "target"})
      labels.emplace_back(key, text_at(job, key));
    out.sample(labels, 1);
  }
  const auto times = [&](std::string_view name, std::string_view help, const char* key) {
    out.family(name, "gauge", help);
    for (const auto& job : open) {
      if (number_of(job, key) > 0) out.sample(labels_of(job), seconds_of_ms(job, key));
    }
  };
  times("poolshift_job_start_timestamp_seconds", "When a job that has not ended began.", "started_wall_ms");
  times("poolshift_job_phase_timestamp_seconds", "When the phase of a job that has not ended changed last.",
        "changed_wall_ms");
  const auto progress = [&](std::string_view name, std::string_view help, const char* key) {
    out.family(name, "gauge", help);
    for (const auto& job : open) {
      const auto shown = part_at(job, "progress");
      if (text_at(job, "state") == "open") out.sample(labels_of(job), whole_number_of(shown, key));
    }
  };
  progress("poolshift_job_done_bytes", "Bytes that a running job has done in this step; 0 where none are counted.",
           "done_bytes");
  progress("poolshift_job_expected_bytes",
           "Bytes that a running job has to do in this step; grows when the guest writes.", "total_bytes");
}

}  // namespace

std::string metrics_text(const json& jobs, const HostFacts& host) {
  Ended ended;
  std::vector<json> open;
  std::map<std::pair<std::string, std::string>, std::uint64_t> open_jobs;  // by state and engine
  double oldest_held_s = 0;
  const double now_s = static_cast<double>(host.wall_now_ms) / 1000;
  for (const auto& job : jobs) {
    const auto state = text_at(job, "state");
    if (is_one_of(kEndStates, state)) {
      ended.add(job);
      continue;
    }
    if (!is_open_job(job)) continue;
    open.push_back(job);
    ++open_jobs[{state, engine_of(job)}];
    const auto since_s = seconds_of_ms(job, "changed_wall_ms");
    if (state == "held" && since_s > 0) oldest_held_s = std::max(oldest_held_s, now_s - since_s);
  }

  Writer out;
  out.family("poolshift_info", "gauge", "1; the label is the version of libpoolshift.");
  out.sample({{"version", host.version}}, 1);
  out.family("poolshift_metrics_timestamp_seconds", "gauge", "When these metrics were made.");
  out.sample({}, now_s);
  out.family("poolshift_jobs", "gauge", "Jobs that have not ended: open (somebody runs it) or held, by engine.");
  for (const auto state : kOpenStates) {
    for (const auto engine : kEngines) {
      out.sample({{"state", std::string(state)}, {"engine", std::string(engine)}},
                 open_jobs[{std::string(state), std::string(engine)}]);
    }
  }
  out.family("poolshift_oldest_held_age_seconds", "gauge",
             "For how long the phase of a held job has not changed, of the oldest one; 0 when none is held.");
  out.sample({}, oldest_held_s);
  out.family("poolshift_requests", "gauge", "Requests in the spool: waiting, running, and failed ones that are kept.");
  out.sample({{"state", "waiting"}}, host.requests.waiting);
  out.sample({{"state", "running"}}, host.requests.running);
  out.sample({{"state", "failed"}}, host.requests.failed);
  write_ended(out, ended);
  write_open(out, open);
  return out.take();
}

}  // namespace poolshift
