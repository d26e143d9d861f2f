#include "engine/job_record.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

namespace poolshift {

using nlohmann::json;

static void to_json(json& out, const ClusterAccess& access) {
  out = {{"mon_hosts", access.mon_hosts},
         {"user", access.user},
         {"secret_uuid", access.secret_uuid},
         {"secret_usage", access.secret_usage},
         {"conf_path", ""}};  // never: a program of root's would read what a journal names
}

static void from_json(const json& in, ClusterAccess& access) {
  in.at("mon_hosts").get_to(access.mon_hosts);
  in.at("user").get_to(access.user);
  in.at("secret_uuid").get_to(access.secret_uuid);
  in.at("secret_usage").get_to(access.secret_usage);
}

static void to_json(json& out, const ImageName& name) {
  out = {{"pool", name.pool}, {"namespace", name.rbd_namespace}, {"image", name.image}};
}

static void from_json(const json& in, ImageName& name) {
  in.at("pool").get_to(name.pool);
  in.at("namespace").get_to(name.rbd_namespace);
  in.at("image").get_to(name.image);
}

static void to_json(json& out, const ImageSpec& spec) {
  out = {{"size_bytes", spec.size_bytes},
         {"features", spec.features},
         {"order", spec.order},
         {"stripe_unit_bytes", spec.stripe_unit},
         {"stripe_count", spec.stripe_count},
         {"data_pool", spec.data_pool},
         {"metadata", spec.metadata}};
}

static void from_json(const json& in, ImageSpec& spec) {
  in.at("size_bytes").get_to(spec.size_bytes);
  in.at("features").get_to(spec.features);
  in.at("order").get_to(spec.order);
  in.at("stripe_unit_bytes").get_to(spec.stripe_unit);
  in.at("stripe_count").get_to(spec.stripe_count);
  in.at("data_pool").get_to(spec.data_pool);
  in.at("metadata").get_to(spec.metadata);
}

static void to_json(json& out, const PhaseSeconds& seconds) {
  out = {{"validate", seconds.validate}, {"prepare", seconds.prepare}, {"copy", seconds.copy},
         {"pivot", seconds.pivot},       {"hydrate", seconds.hydrate}, {"retire", seconds.retire},
         {"undo", seconds.undo},         {"pause", seconds.pause},     {"snapshot", seconds.snapshot}};
}

static void from_json(const json& in, PhaseSeconds& seconds) {
  in.at("validate").get_to(seconds.validate);
  in.at("prepare").get_to(seconds.prepare);
  in.at("copy").get_to(seconds.copy);
  in.at("pivot").get_to(seconds.pivot);
  in.at("retire").get_to(seconds.retire);
  in.at("undo").get_to(seconds.undo);
  in.at("pause").get_to(seconds.pause);
  seconds.hydrate = in.value("hydrate", 0.0);
  seconds.snapshot = in.value("snapshot", 0.0);
}

std::string_view name_of(Hydration hydration) { return hydration == Hydration::offload ? "offload" : "flatten"; }

std::string_view name_of(Check::Outcome outcome) {
  switch (outcome) {
    case Check::Outcome::pass: return "pass";
    case Check::Outcome::warn: return "warn";
    case Check::Outcome::refuse: return "refuse";
  }
  return "refuse";
}

json to_json(const std::vector<Check>& checks) {
  json out = json::array();
  for (const auto& check : checks) {
    out.push_back(
        {{"name", check.name}, {"result", name_of(check.outcome)}, {"found", check.found}, {"do", check.advice}});
  }
  return out;
}

static std::vector<Check> checks_from_json(const json& in) {
  std::vector<Check> checks;
  for (const auto& entry : in) {
    const auto result = entry.at("result").get<std::string>();
    auto outcome = Check::Outcome::refuse;
    if (result == "pass") outcome = Check::Outcome::pass;
    if (result == "warn") outcome = Check::Outcome::warn;
    checks.push_back({entry.at("name"), outcome, entry.at("found"), entry.at("do")});
  }
  return checks;
}

json error_to_json(const Error& error) {
  return {{"schema", 1}, {"code", name_of(error.code)}, {"message", error.message}, {"advice", error.advice}};
}

static Error error_from_json(const json& in) {
  Error error{ErrorCode::internal, in.at("message"), in.at("advice")};
  const auto name = in.at("code").get<std::string>();
  for (int code = 0; code <= static_cast<int>(ErrorCode::internal); ++code) {
    if (name_of(static_cast<ErrorCode>(code)) == name) error.code = static_cast<ErrorCode>(code);
  }
  return error;
}

GuestOn usual_guest_on(Phase phase) {
  switch (phase) {
    case Phase::prepare:
    case Phase::copy:
    case Phase::pause:
    case Phase::undo:
    case Phase::undone:
    case Phase::held_on_source: return GuestOn::source;
    case Phase::hydrate:
    case Phase::retire:
    case Phase::done:
    case Phase::held_on_target: return GuestOn::target;
    case Phase::pivot:
    case Phase::held_unknown: return GuestOn::unknown;
  }
  return GuestOn::unknown;
}

void to_json(json& out, const JobRecord& record) {
  out = {{"schema", 1},
         {"job", record.job_id},
         {"phase", name_of(record.phase)},
         {"resume_phase", name_of(record.resume_phase)},
         {"guest_on", name_of(record.guest_on)},
         {"started_wall_ms", record.started_wall_ms},
         {"changed_wall_ms", record.changed_wall_ms},
         {"domain_uuid", record.domain_uuid},
         {"domain_name", record.domain_name},
         {"disk", record.disk},
         {"engine", record.engine},
         {"engine_reason", record.engine_reason},
         {"bandwidth_bytes_per_s", record.bandwidth_bytes_per_s},
         {"source_after", record.source_after == SourceAfter::trash ? "trash" : "keep"},
         {"create_target", record.create_target},
         {"labels", record.labels},
         {"hydration", name_of(record.hydration)},
         {"hydration_reason", record.hydration_reason},
         {"offline", record.offline},
         {"max_pause_ms", record.max_pause_ms},
         {"overlay_path", record.overlay_path},
         {"overlay_bytes", record.overlay_bytes},
         {"source_watcher", record.source_watcher},
         {"source_id", record.source_id},
         {"target_id", record.target_id},
         {"source_size_bytes", record.source_size_bytes},
         {"source_used_bytes", record.source_used_bytes},
         {"source_unmaps", record.source_unmaps},
         {"disk_xml", record.disk_xml},
         {"persistent_disk_xml", record.persistent_disk_xml},
         {"disk_is_compared", record.disk_is_compared},
         {"checks", to_json(record.checks)},
         {"copy_started", record.copy_started},
         {"resume_guest", record.resume_guest},
         {"overlay_committed", record.overlay_committed},
         {"convergence", record.convergence},
         {"copied_bytes", record.copied_bytes},
         {"target_used_bytes", record.target_used_bytes},
         {"sparsified", record.sparsified},
         {"flattening", record.flattening},
         {"cancelled", record.cancelled},
         {"notes", record.notes}};
  to_json(out["source"], record.source);
  to_json(out["target"], record.target);
  to_json(out["source_access"], record.source_access);
  to_json(out["target_access"], record.target_access);
  to_json(out["target_spec"], record.target_spec);
  to_json(out["seconds"], record.seconds);
  out["limit_to_restore"] = nullptr;
  if (record.limit_to_restore) {
    out["limit_to_restore"] = {{"total_bytes_per_s", record.limit_to_restore->total_bytes_per_s},
                               {"write_bytes_per_s", record.limit_to_restore->write_bytes_per_s}};
  }
  out["error"] = nullptr;
  if (record.error) out["error"] = error_to_json(*record.error);
}

static JobRecord parse_record(const json& in) {
  JobRecord record;
  const auto phase = phase_named(in.at("phase").get<std::string>());
  const auto resume_phase = phase_named(in.at("resume_phase").get<std::string>());
  if (!phase || !resume_phase) throw json::other_error::create(500, "unknown phase", &in);
  record.phase = *phase;
  record.resume_phase = *resume_phase;
  const auto guest_on = in.at("guest_on").get<std::string>();
  record.guest_on = GuestOn::unknown;
  for (auto where : {GuestOn::source, GuestOn::target}) {
    if (name_of(where) == guest_on) record.guest_on = where;
  }
  in.at("job").get_to(record.job_id);
  in.at("started_wall_ms").get_to(record.started_wall_ms);
  in.at("changed_wall_ms").get_to(record.changed_wall_ms);
  in.at("domain_uuid").get_to(record.domain_uuid);
  in.at("domain_name").get_to(record.domain_name);
  in.at("disk").get_to(record.disk);
  from_json(in.at("source"), record.source);
  from_json(in.at("target"), record.target);
  from_json(in.at("source_access"), record.source_access);
  from_json(in.at("target_access"), record.target_access);
  in.at("engine").get_to(record.engine);
  if (record.engine != kMirror && record.engine != kHandover) {
    throw json::other_error::create(500, fmt::format("unknown engine '{}'", record.engine), &in);
  }
  in.at("engine_reason").get_to(record.engine_reason);
  in.at("bandwidth_bytes_per_s").get_to(record.bandwidth_bytes_per_s);
  const auto source_after = in.at("source_after").get<std::string>();
  record.source_after = source_after == "trash" ? SourceAfter::trash : SourceAfter::keep;
  in.at("create_target").get_to(record.create_target);
  record.labels = in.value("labels", std::map<std::string, std::string>{});
  // Records of the first format have no handover.
  if (in.value("hydration", "flatten") == "offload") record.hydration = Hydration::offload;
  record.hydration_reason = in.value("hydration_reason", "");
  record.offline = in.value("offline", false);
  record.max_pause_ms = in.value("max_pause_ms", std::int64_t{0});
  record.overlay_path = in.value("overlay_path", "");
  record.overlay_bytes = in.value("overlay_bytes", std::uint64_t{0});
  record.resume_guest = in.value("resume_guest", false);
  record.overlay_committed = in.value("overlay_committed", false);
  record.disk_xml = in.value("disk_xml", "");
  record.persistent_disk_xml = in.value("persistent_disk_xml", "");
  record.disk_is_compared = in.value("disk_is_compared", false);
  in.at("source_watcher").get_to(record.source_watcher);
  record.source_id = in.value("source_id", "");
  record.target_id = in.value("target_id", "");
  in.at("source_size_bytes").get_to(record.source_size_bytes);
  in.at("source_used_bytes").get_to(record.source_used_bytes);
  in.at("source_unmaps").get_to(record.source_unmaps);
  from_json(in.at("target_spec"), record.target_spec);
  record.checks = checks_from_json(in.at("checks"));
  in.at("copy_started").get_to(record.copy_started);
  if (const auto& limit = in.at("limit_to_restore"); !limit.is_null()) {
    record.limit_to_restore = WriteLimit{limit.at("total_bytes_per_s"), limit.at("write_bytes_per_s")};
  }
  in.at("convergence").get_to(record.convergence);
  in.at("copied_bytes").get_to(record.copied_bytes);
  in.at("target_used_bytes").get_to(record.target_used_bytes);
  in.at("sparsified").get_to(record.sparsified);
  record.flattening = in.value("flattening", false);
  in.at("cancelled").get_to(record.cancelled);
  if (const auto& error = in.at("error"); !error.is_null()) record.error = error_from_json(error);
  in.at("notes").get_to(record.notes);
  from_json(in.at("seconds"), record.seconds);
  return record;
}

Result<JobRecord> record_from_json(const json& in) {
  if (!in.is_object() || !in.contains("schema") || in["schema"] != 1) {
    return Error{ErrorCode::damaged, "the record has no \"schema\": 1",
                 "It was written by another major version of PoolShift: use that one."};
  }
  // nlohmann/json reports missing keys and wrong types by exception only; they end here.
  try {
    return parse_record(in);
  } catch (const json::exception& reason) {
    return Error{ErrorCode::damaged, fmt::format("the record cannot be read: {}", reason.what()),
                 "Keep the file and report it; PoolShift does not act on it."};
  }
}

}  // namespace poolshift
