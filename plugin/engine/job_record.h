// All that is known of a job, as it stands in each record of its journal (poolshift-journal(5)). No secrets.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/image_name.h"
#include "base/result.h"
#include "engine/transitions.h"
#include "ports/hypervisor.h"
#include "ports/storage.h"

namespace poolshift {

enum class SourceAfter { keep, trash };
// How a handover's target gets its data: the OSDs copy objects among themselves, or librbd inside the guest's QEMU
// does.
enum class Hydration { offload, flatten };
std::string_view name_of(Hydration hydration);
enum class GuestOn { source, target, unknown };

constexpr std::string_view name_of(GuestOn where) {
  switch (where) {
    case GuestOn::source: return "source";
    case GuestOn::target: return "target";
    case GuestOn::unknown: return "unknown";
  }
  return "unknown";
}

// One line of the table of checks: what was looked at, what was found, what to do about it.
struct Check {
  enum class Outcome { pass, warn, refuse };
  std::string name;
  Outcome outcome = Outcome::pass;
  std::string found;
  std::string advice;
};
std::string_view name_of(Check::Outcome outcome);

// Seconds that each phase took; they grow when a phase is entered again after a crash.
struct PhaseSeconds {
  double validate = 0, prepare = 0, copy = 0, pivot = 0, hydrate = 0, retire = 0, undo = 0;  // pivot: `pause` too
  double pause = 0;     // the guest was suspended by us; part of `pivot`
  double snapshot = 0;  // of that, until the cluster had made the snapshot
};

inline constexpr const char* kMirror = "mirror";
inline constexpr const char* kHandover = "handover";

struct JobRecord {
  std::string job_id;
  Phase phase = Phase::prepare;
  Phase resume_phase = Phase::prepare;  // of a held job: where `recover` takes it up
  GuestOn guest_on = GuestOn::source;
  std::int64_t started_wall_ms = 0;
  std::int64_t changed_wall_ms = 0;

  // What was asked for.
  std::string domain_uuid;
  std::string domain_name;
  std::string disk;
  ImageName source;
  ImageName target;
  ClusterAccess source_access;
  ClusterAccess target_access;
  std::string engine = kMirror;
  std::string engine_reason;
  std::uint64_t bandwidth_bytes_per_s = 0;
  SourceAfter source_after = SourceAfter::keep;
  bool create_target = false;
  std::map<std::string, std::string> labels;  // the caller's own, only kept
  Hydration hydration = Hydration::flatten;   // of a handover
  std::string hydration_reason;
  bool offline = false;             // of a handover: the domain was shut off (flow/offline.cpp)
  std::int64_t max_pause_ms = 0;    // when the guardian steps in
  std::string overlay_path;         // file that is on the disk during the pause
  std::uint64_t overlay_bytes = 0;  // its size as long as nothing was written to it

  // What validation found, needed to act, to undo and to prove.
  std::string source_watcher;  // address of the one client that had the source open: the guest's QEMU
  std::string source_id;       // empty: an older version began the job
  std::string target_id;  // of a target that was there before; empty: it is created, or an older version began the job
  std::uint64_t source_size_bytes = 0;
  std::uint64_t source_used_bytes = 0;
  bool source_unmaps = false;
  std::string disk_xml;             // the disk's XML without its source (Disk::comparable_xml); empty: not known
  std::string persistent_disk_xml;  // the same of the persistent definition
  ImageSpec target_spec;            // the target as it was, or as it is to be created
  std::vector<Check> checks;

  // What was done.
  bool copy_started = false;                   // the target may hold data, or its name be our clone's
  bool resume_guest = false;                   // the guest ran, and we may have suspended it
  bool overlay_committed = false;              // what the overlay held is on the source
  bool disk_is_compared = false;               // after the switch the disk's XML was as before, but for its source
  std::optional<WriteLimit> limit_to_restore;  // the guest's write limit before we lowered it
  std::string convergence = "none needed";
  std::uint64_t copied_bytes = 0;
  std::uint64_t target_used_bytes = 0;
  bool sparsified = false;
  bool flattening = false;  // librbd copies what is left of a handover: no bandwidth limit holds
  bool cancelled = false;
  std::optional<Error> error;      // why it is undone or held
  std::vector<std::string> notes;  // what an operator should know, one sentence each
  PhaseSeconds seconds;
};

// Where the guest is in this phase, unless what was seen says otherwise.
GuestOn usual_guest_on(Phase phase);

void to_json(nlohmann::json& json, const JobRecord& record);
// `damaged` when a key is missing or of the wrong type. Unknown keys are ignored: a newer minor version wrote them.
Result<JobRecord> record_from_json(const nlohmann::json& json);
nlohmann::json to_json(const std::vector<Check>& checks);
nlohmann::json error_to_json(const Error& error);

}  // namespace poolshift
