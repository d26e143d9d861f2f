#include "engine/report.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

namespace poolshift {

using nlohmann::json;

std::string state_of(const JobRecord& record, bool running) {
  if (running) return "open";
  if (record.phase == Phase::done) return "done";
  if (record.phase == Phase::undone) return record.cancelled ? "cancelled" : "undone";
  return "held";
}

poolshift_result result_of(const JobRecord& record, bool running) {
  if (running) return POOLSHIFT_RUNNING;
  if (record.phase == Phase::done) return POOLSHIFT_OK;
  if (record.phase == Phase::undone) return record.cancelled ? POOLSHIFT_CANCELLED : POOLSHIFT_UNDONE;
  return POOLSHIFT_HELD;
}

poolshift_result result_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid: return POOLSHIFT_USAGE;
    case ErrorCode::refused:
    case ErrorCode::not_found:
    case ErrorCode::exists:
    case ErrorCode::busy: return POOLSHIFT_REFUSED;
    case ErrorCode::cancelled: return POOLSHIFT_CANCELLED;
    case ErrorCode::internal: return POOLSHIFT_INTERNAL;
    default: return POOLSHIFT_HELD;
  }
}

// What a job says that its own process can no longer say.
static Error abandoned(const JobRecord& record) {
  return {ErrorCode::left,
          fmt::format("job '{}' stopped in phase '{}' and nobody runs it", record.job_id, name_of(record.phase)),
          fmt::format("'poolshift recover {}' goes on with it.", record.job_id)};
}

static json common_of(const JobRecord& record) {
  return {{"schema", 1},
          {"job", record.job_id},
          {"domain", record.domain_name},
          {"domain_uuid", record.domain_uuid},
          {"disk", record.disk},
          {"source", to_string(record.source)},
          {"target", to_string(record.target)},
          {"engine", record.engine},
          {"offline", record.offline},
          {"phase", name_of(record.phase)},
          {"guest_on", name_of(record.guest_on)},
          {"labels", record.labels},
          {"started_wall_ms", record.started_wall_ms},
          {"changed_wall_ms", record.changed_wall_ms}};
}

json report_of(const JobRecord& record) {
  const auto& seconds = record.seconds;
  const double total = seconds.validate + seconds.prepare + seconds.copy + seconds.pivot + seconds.hydrate +
                       seconds.retire + seconds.undo;
  json out = common_of(record);
  out["state"] = state_of(record, false);
  out["engine_reason"] = record.engine_reason;
  out["bytes"] = {{"virtual", record.target_spec.size_bytes},
                  {"source_used", record.source_used_bytes},
                  {"target_used", record.target_used_bytes},
                  {"copied", record.copied_bytes}};
  out["seconds"] = {{"validate", seconds.validate}, {"prepare", seconds.prepare},
                    {"copy", seconds.copy},         {"pivot", seconds.pivot},
                    {"hydrate", seconds.hydrate},   {"retire", seconds.retire},
                    {"undo", seconds.undo},         {"pause", seconds.pause},
                    {"snapshot", seconds.snapshot}, {"total", total}};
  out["hydration"] = nullptr;
  if (record.engine == kHandover) {
    out["hydration"] = {{"method", name_of(record.hydration)}, {"reason", record.hydration_reason}};
  }
  out["convergence"] = record.convergence;
  out["sparsified"] = record.sparsified;
  out["notes"] = record.notes;
  out["checks"] = to_json(record.checks);
  out["error"] = nullptr;
  if (record.error) out["error"] = error_to_json(*record.error);
  if (!record.error && !has_ended(record.phase)) out["error"] = error_to_json(abandoned(record));
  return out;
}

json status_of(const JobStore::Seen& seen) {
  if (!seen.running) {
    json out = report_of(seen.record);
    out["running"] = false;
    return out;
  }
  json out = common_of(seen.record);
  out["running"] = true;
  out["state"] = state_of(seen.record, true);
  out["progress"] = nullptr;
  if (seen.progress) {
    out["progress"] = {{"step", seen.progress->step},
                       {"done_bytes", seen.progress->done_bytes},
                       {"total_bytes", seen.progress->total_bytes},
                       {"bytes_per_s", seen.progress->bytes_per_s},
                       {"left_s", seen.progress->left_s}};
  }
  return out;
}

json report_of(const Validation& validation) {
  json out = report_of(validation.plan);
  const bool refused = validation.refused();
  out["job"] = nullptr;
  out["phase"] = "validate";
  out["state"] = refused ? "refused" : "checked";
  out["guest_on"] = "source";
  out["checks"] = to_json(validation.checks);
  out["error"] = nullptr;
  if (refused) out["error"] = error_to_json(validation.refusal());
  if (validation.plan.source == ImageName{}) out["source"] = nullptr;  // not known: the request does not name it
  out["plan"] = nullptr;
  if (!refused) {
    out["plan"] = {{"engine", validation.plan.engine},
                   {"engine_reason", validation.plan.engine_reason},
                   {"hydration", out["hydration"]},
                   {"offline", validation.plan.offline},
                   {"creates_target", validation.plan.create_target},
                   {"target_bytes_after", validation.plan.target_spec.size_bytes},
                   {"source_after", validation.plan.source_after == SourceAfter::trash ? "trash" : "keep"},
                   {"bandwidth_bytes_per_s", validation.plan.bandwidth_bytes_per_s}};
  }
  return out;
}

}  // namespace poolshift
