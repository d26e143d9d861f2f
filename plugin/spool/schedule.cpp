#include "spool/schedule.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "include/poolshift.h"
#include "spool/job_json.h"

namespace poolshift {

using nlohmann::json;

namespace {

constexpr std::int64_t kFirstBackOffMs = 10'000;
constexpr std::int64_t kMostBackOffMs = 30 * 60'000;

std::string error_code(const json& report) { return text_at(part_at(report, "error"), "code"); }

// Checks (flow/validate.cpp) that speak of others' doings, of room and of health: the next look may find it otherwise.
bool may_pass(const std::string& check) {
  static const std::set<std::string> kMomentary = {
      "block_job",          "health",          "open_jobs",    "quota_bytes",       "quota_objects",  "room",
      "room_while_copying", "source_watchers", "target_locks", "target_pool_flags", "target_watchers"};
  return kMomentary.contains(check);
}

bool all_refusals_may_pass(const json& report) {
  bool any = false;
  if (!report.is_object() || !report.contains("checks") || !report["checks"].is_array()) return false;
  for (const auto& check : report["checks"]) {
    if (text_at(check, "result") != "refuse") continue;
    any = true;
    if (!may_pass(text_at(check, "name"))) return false;
  }
  return any;
}

using Rule = std::pair<Origin, std::string>;
Rule rule_of(const SpoolRequest& request) { return {request.origin, request.policy}; }

}  // namespace

std::string_view name_of(WaitsFor what) {
  switch (what) {
    case WaitsFor::nothing: return "nothing";
    case WaitsFor::its_window: return "its window";
    case WaitsFor::its_next_attempt: return "its next attempt";
    case WaitsFor::others_of_its_rule: return "others of its rule";
    case WaitsFor::a_free_place: return "a free place";
  }
  return "nothing";
}

std::vector<WaitsFor> schedule(const std::vector<WaitingRequest>& waiting, const std::vector<SpoolRequest>& running,
                               unsigned parallel, std::int64_t now_ms, int minute_of_day) {
  std::map<Rule, unsigned> of_rule;
  std::set<std::string> disks;
  for (const auto& request : running) {
    ++of_rule[rule_of(request)];
    disks.insert(disk_key(request));
  }
  auto at_once = running.size();
  const auto waits_for = [&](const WaitingRequest& each) {
    const auto& request = each.request;
    if (request.window && !is_open(*request.window, minute_of_day)) return WaitsFor::its_window;
    if (each.retry.not_before_ms > now_ms) return WaitsFor::its_next_attempt;
    if (request.at_most != 0 && of_rule[rule_of(request)] >= request.at_most) return WaitsFor::others_of_its_rule;
    if (at_once >= parallel || disks.contains(disk_key(request))) return WaitsFor::a_free_place;
    return WaitsFor::nothing;
  };
  std::vector<WaitsFor> out;
  for (const auto& each : waiting) {
    out.push_back(waits_for(each));
    if (out.back() != WaitsFor::nothing) continue;
    ++of_rule[rule_of(each.request)];
    disks.insert(disk_key(each.request));
    ++at_once;
  }
  return out;
}

std::uint64_t bandwidth_share(const SpoolRequest& request, std::size_t running, std::uint64_t total_bytes_per_s) {
  const auto own = request.swap.value("bandwidth_bytes_per_s", std::uint64_t{0});
  if (total_bytes_per_s == 0) return own;
  const auto share = std::max<std::uint64_t>(total_bytes_per_s / std::max<std::size_t>(running, 1), 1);
  return own == 0 ? share : std::min(own, share);
}

Fate fate_of(int result, const json& report) {
  const auto code = error_code(report);
  switch (result) {
    case POOLSHIFT_OK: return Fate::done;
    case POOLSHIFT_REFUSED:
      return code == "unreachable" || code == "busy" || all_refusals_may_pass(report) ? Fate::try_again : Fate::fails;
    case POOLSHIFT_UNDONE:
      return code == "denied" || code == "unsupported" || code == "invalid" ? Fate::fails : Fate::try_again;
    case POOLSHIFT_HELD:
    case POOLSHIFT_INTERNAL:
      if (text_at(report, "state") == "refused") return Fate::try_again;  // no journal could be made: nothing was begun
      // Where the guest is must be known, and an operator who has stopped it must not be contradicted.
      if (text_at(report, "guest_on") == "unknown" || text_at(report, "job").empty()) return Fate::is_held;
      return code == "left" || code == "unreachable" || code == "failed" ? Fate::take_up : Fate::is_held;
    default: return Fate::fails;
  }
}

std::int64_t back_off_ms(unsigned attempts) {
  auto wait_ms = kFirstBackOffMs;
  for (unsigned i = 1; i < attempts && wait_ms < kMostBackOffMs; ++i) wait_ms *= 2;
  return std::min(wait_ms, kMostBackOffMs);
}

}  // namespace poolshift
