#include "engine/job_log.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "engine/report.h"

namespace poolshift {

using nlohmann::json;

namespace {

std::string text_of(const json& object, const char* key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

// Those that are not known are left out.
void add_known(LogFields::List& fields, const char* name, std::string value) {
  if (!value.empty()) fields.emplace_back(name, std::move(value));
}

LogFields::List fields_of_report(const json& report) {
  LogFields::List fields;
  add_known(fields, "POOLSHIFT_JOB", text_of(report, "job"));
  add_known(fields, "POOLSHIFT_DOMAIN", text_of(report, "domain"));
  add_known(fields, "POOLSHIFT_DOMAIN_UUID", text_of(report, "domain_uuid"));
  add_known(fields, "POOLSHIFT_DISK", text_of(report, "disk"));
  add_known(fields, "POOLSHIFT_SOURCE", text_of(report, "source"));
  add_known(fields, "POOLSHIFT_TARGET", text_of(report, "target"));
  add_known(fields, "POOLSHIFT_ENGINE", text_of(report, "engine"));
  add_known(fields, "POOLSHIFT_PHASE", text_of(report, "phase"));
  add_known(fields, "POOLSHIFT_STATE", text_of(report, "state"));
  add_known(fields, "POOLSHIFT_GUEST_ON", text_of(report, "guest_on"));
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
    return LogFields::List{{"POOLSHIFT_JOB", record.job_id},
                           {"POOLSHIFT_DOMAIN", record.domain_name},
                           {"POOLSHIFT_DOMAIN_UUID", record.domain_uuid},
                           {"POOLSHIFT_DISK", record.disk},
                           {"POOLSHIFT_SOURCE", to_string(record.source)},
                           {"POOLSHIFT_TARGET", to_string(record.target)},
                           {"POOLSHIFT_ENGINE", record.engine},
                           {"POOLSHIFT_PHASE", std::string(name_of(record.phase))},
                           {"POOLSHIFT_STATE", state_of(record, runs)},
                           {"POOLSHIFT_GUEST_ON", std::string(name_of(record.guest_on))}};
  };
}

void log_begin(const JobRecord& record) {
  log().info("job {}: {}, engine {} ({})", record.job_id,
             moves(record.disk, record.domain_name, to_string(record.source), to_string(record.target)), record.engine,
             record.engine_reason);
}

void log_end(const json& report) {
  const auto state = text_of(report, "state");
  const auto error = report.value("error", json());
  const auto code = text_of(error, "code");
  const auto why = fmt::format("{}. {}", text_of(error, "message"), text_of(error, "advice"));
  std::string what;  // not known of a journal that cannot be used
  if (const auto domain = text_of(report, "domain"); !domain.empty()) {
    what = moves(text_of(report, "disk"), domain, text_of(report, "source"), text_of(report, "target")) + ": ";
  }
  // A job that was left waits for `recover`, as whoever left it knows: nothing is wrong with it.
  const bool is_held = state == "held" && code != name_of(ErrorCode::left);
  auto fields = fields_of_report(report);
  if (is_held) fields.emplace_back("MESSAGE_ID", kHeldMessageId);
  const LogFields scope([&] { return fields; });
  const auto job = text_of(report, "job");
  if (state == "refused") {
    log().warn("refused: {}{}", what, why);
  } else if (state == "done") {
    log().info("job {}: {}done", job, what);
  } else if (is_held) {
    log().error("job {}: {}held: {}", job, what, why);
  } else if (state == "held") {
    log().info("job {}: {}left: {}", job, what, why);
  } else {
    log().warn("job {}: {}{}: {}", job, what, state, why);
  }
}

}  // namespace poolshift
