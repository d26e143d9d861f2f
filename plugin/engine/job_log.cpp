#include "engine/job_log.h"

#include <fmt/core.h>

#include <array>
#include <nlohmann/json.hpp>

#include "base/json_reader.h"
#include "engine/report.h"

namespace poolshift {

using nlohmann::json;

namespace {

// The fields, and the keys of a report that they are from.
constexpr std::array<std::pair<const char*, const char*>, 10> kFields = {{{"POOLSHIFT_JOB", "job"},
                                                                          {"POOLSHIFT_DOMAIN", "domain"},
                                                                          {"POOLSHIFT_DOMAIN_UUID", "domain_uuid"},
                                                                          {"POOLSHIFT_DISK", "disk"},
                                                                          {"POOLSHIFT_SOURCE", "source"},
                                                                          {"POOLSHIFT_TARGET", "target"},
                                                                          {"POOLSHIFT_ENGINE", "engine"},
                                                                          {"POOLSHIFT_PHASE", "phase"},
                                                                          {"POOLSHIFT_STATE", "state"},
                                                                          {"POOLSHIFT_GUEST_ON", "guest_on"}}};

// Those that are not known are left out.
LogFields::List fields_of_report(const json& report) {
  LogFields::List fields;
  for (const auto& [field, key] : kFields) {
    if (auto text = text_at(report, key); !text.empty()) fields.emplace_back(field, std::move(text));
  }
  return fields;
}

std::string moves(const std::string& disk, const std::string& domain, const std::string& source,
                  const std::string& target) {
  return fmt::format("disk '{}' of domain '{}': {} -> {}", disk, domain, source.empty() ? "?" : source, target);
}

}  // namespace

std::function<LogFields::List()> fields_of(const JobRecord& record) {
  return [&record] {
    const bool runs = !has_ended(record.phase) && !is_held(record.phase);
    return fields_of_report(status_of({record, runs, std::nullopt}));
  };
}

void log_begin(const JobRecord& record) {
  log().info("job {}: {}, engine {} ({})", record.job_id,
             moves(record.disk, record.domain_name, to_string(record.source), to_string(record.target)), record.engine,
             record.engine_reason);
}

void log_end(const json& report) {
  const auto state = text_at(report, "state");
  const auto error = report.value("error", json());
  const auto code = text_at(error, "code");
  const auto why = error.is_null() ? "" : fmt::format(": {}. {}", text_at(error, "message"), text_at(error, "advice"));
  std::string what;  // not known of a journal that cannot be used
  if (const auto domain = text_at(report, "domain"); !domain.empty()) {
    what = moves(text_at(report, "disk"), domain, text_at(report, "source"), text_at(report, "target")) + ": ";
  }
  // A job that was left waits for `recover`, as whoever left it knows: nothing is wrong with it.
  const bool is_held = state == "held" && code != name_of(ErrorCode::left);
  auto fields = fields_of_report(report);
  if (is_held) fields.emplace_back("MESSAGE_ID", kHeldMessageId);
  const LogFields scope([&] { return fields; });
  const auto job = text_at(report, "job");
  const auto said = job.empty() ? what : fmt::format("job {}: {}", job, what);
  if (state == "done") {
    log().info("{}done", said);
  } else if (is_held) {
    log().error("{}held{}", said, why);
  } else if (state == "held") {
    log().info("{}left{}", said, why);
  } else {
    log().warn("{}{}{}", said, state, why);
  }
}

}  // namespace poolshift
