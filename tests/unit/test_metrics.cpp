// The text that Prometheus is given. promtool reads it in tests/cli/check_metrics.sh.
#include <fmt/core.h>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "spool/metrics.h"

namespace poolshift {

using nlohmann::json;

namespace {

constexpr std::int64_t kNowMs = 1'800'000'000'000;

json job(const std::string& id, const std::string& state, const std::string& engine) {
  return {{"job", id},
          {"state", state},
          {"engine", engine},
          {"domain", "web"},
          {"disk", "vda"},
          {"phase", "copy"},
          {"guest_on", "source"},
          {"source", "hdd/web"},
          {"target", "ssd/web"},
          {"started_wall_ms", kNowMs - 60'000},
          {"changed_wall_ms", kNowMs - 30'500},
          {"bytes", {{"copied", 0}}},
          {"seconds", json::object()}};
}

std::string text_for(const json& jobs) { return metrics_text(jobs, {"1.2.3", kNowMs, {4, 5, 6}}); }

bool has_line(const std::string& text, const std::string& line) {
  return ("\n" + text).find("\n" + line + "\n") != std::string::npos;
}

}  // namespace

TEST_CASE("metrics: a host without jobs has zeroes") {
  const auto text = text_for(json::array());
  CHECK(has_line(text, R"(poolshift_info{version="1.2.3"} 1)"));
  CHECK(has_line(text, "poolshift_metrics_timestamp_seconds 1800000000"));
  CHECK(has_line(text, R"(poolshift_jobs{state="held",engine="mirror"} 0)"));
  CHECK(has_line(text, R"(poolshift_jobs_ended_total{state="done",engine="handover"} 0)"));
  CHECK(has_line(text, "poolshift_oldest_held_age_seconds 0"));
  CHECK(has_line(text, R"(poolshift_requests{state="waiting"} 4)"));
  CHECK(has_line(text, R"(poolshift_requests{state="running"} 5)"));
  CHECK(has_line(text, R"(poolshift_requests{state="failed"} 6)"));
  CHECK(has_line(text, "poolshift_pause_duration_seconds_count 0"));
  CHECK(text.find("job_id=") == std::string::npos);
}

TEST_CASE("metrics: ended jobs are summed up") {
  auto one = job("a", "done", "handover");
  one["bytes"]["copied"] = 1'000;
  one["seconds"] = {{"pivot", 0.5}, {"hydrate", 4.0}, {"pause", 0.25}};
  auto two = one;
  two["seconds"] = {{"pivot", 1.5}, {"hydrate", 0.0}, {"pause", 70.0}};
  auto undone = job("b", "undone", "mirror");
  undone["bytes"]["copied"] = 7;
  undone["seconds"] = {{"copy", 3.25}, {"pause", 0.0}};
  const auto text = text_for({one, two, undone, job("c", "cancelled", "mirror")});
  CHECK(has_line(text, R"(poolshift_jobs_ended_total{state="done",engine="handover"} 2)"));
  CHECK(has_line(text, R"(poolshift_jobs_ended_total{state="undone",engine="mirror"} 1)"));
  CHECK(has_line(text, R"(poolshift_jobs_ended_total{state="cancelled",engine="mirror"} 1)"));
  CHECK(has_line(text, R"(poolshift_copied_bytes_total{engine="handover"} 2000)"));
  CHECK(has_line(text, R"(poolshift_copied_bytes_total{engine="mirror"} 7)"));
  CHECK(has_line(text, R"(poolshift_phase_duration_seconds_sum{phase="pivot",engine="handover"} 2)"));
  CHECK(has_line(text, R"(poolshift_phase_duration_seconds_count{phase="pivot",engine="handover"} 2)"));
  CHECK(has_line(text, R"(poolshift_phase_duration_seconds_count{phase="hydrate",engine="handover"} 1)"));
  CHECK(has_line(text, R"(poolshift_phase_duration_seconds_sum{phase="copy",engine="mirror"} 3.25)"));
  CHECK(has_line(text, R"(poolshift_pause_duration_seconds_bucket{le="0.2"} 0)"));
  CHECK(has_line(text, R"(poolshift_pause_duration_seconds_bucket{le="0.3"} 1)"));
  CHECK(has_line(text, R"(poolshift_pause_duration_seconds_bucket{le="10"} 1)"));
  CHECK(has_line(text, R"(poolshift_pause_duration_seconds_bucket{le="+Inf"} 2)"));
  CHECK(has_line(text, "poolshift_pause_duration_seconds_sum 70.25"));
  CHECK(has_line(text, "poolshift_pause_duration_seconds_count 2"));
  CHECK(text.find("job_id=") == std::string::npos);
}

TEST_CASE("metrics: jobs that have not ended are named") {
  auto open = job("a", "open", "mirror");
  open["progress"] = {{"step", "copying"}, {"done_bytes", 100}, {"total_bytes", 400}};
  auto without_progress = job("b", "open", "handover");
  without_progress["progress"] = nullptr;
  auto held = job("c", "held", "handover");
  held["domain"] = "a \"b\" \\ c\nd";
  auto held_since_long = job("d", "held", "handover");
  held_since_long["changed_wall_ms"] = kNowMs - 100'000;
  const auto text = text_for({open, without_progress, held, held_since_long});
  CHECK(has_line(text, R"(poolshift_jobs{state="open",engine="mirror"} 1)"));
  CHECK(has_line(text, R"(poolshift_jobs{state="held",engine="handover"} 2)"));
  CHECK(has_line(text, "poolshift_oldest_held_age_seconds 100"));
  CHECK(has_line(text, R"(poolshift_job_done_bytes{job_id="a",domain="web",disk="vda"} 100)"));
  CHECK(has_line(text, R"(poolshift_job_expected_bytes{job_id="a",domain="web",disk="vda"} 400)"));
  CHECK(has_line(text, R"(poolshift_job_done_bytes{job_id="b",domain="web",disk="vda"} 0)"));
  CHECK(text.find("poolshift_job_done_bytes{job_id=\"c\"") == std::string::npos);
  CHECK(has_line(text,
                 R"(poolshift_job_info{job_id="c",domain="a \"b\" \\ c\nd",disk="vda",engine="handover",state="held",)"
                 R"(phase="copy",guest_on="source",source="hdd/web",target="ssd/web"} 1)"));
  CHECK(has_line(text, R"(poolshift_job_start_timestamp_seconds{job_id="a",domain="web",disk="vda"} 1799999940)"));
  CHECK(has_line(text, R"(poolshift_job_phase_timestamp_seconds{job_id="a",domain="web",disk="vda"} 1799999969.5)"));
}

TEST_CASE("metrics: what cannot be read is counted, and what is not known left out") {
  // As poolshift_jobs() gives a job whose journal is damaged.
  const json damaged = {{"job", "a"}, {"state", "held"}, {"guest_on", "unknown"}};
  auto of_tomorrow = job("b", "open", "teleport");
  auto strange = job("c", "done", "mirror");
  strange["bytes"] = "many";
  strange["seconds"] = nullptr;
  const auto text = text_for({damaged, of_tomorrow, strange, job("d", "asleep", "mirror"), "no job"});
  CHECK(has_line(text, R"(poolshift_jobs{state="held",engine="unknown"} 1)"));
  CHECK(has_line(text, R"(poolshift_jobs{state="open",engine="unknown"} 1)"));
  CHECK(has_line(text, R"(poolshift_jobs_ended_total{state="done",engine="mirror"} 1)"));
  CHECK(has_line(text, "poolshift_oldest_held_age_seconds 0"));
  CHECK(text.find(R"(poolshift_job_start_timestamp_seconds{job_id="a")") == std::string::npos);
  CHECK(text.find("job_id=\"d\"") == std::string::npos);
}

}  // namespace poolshift
