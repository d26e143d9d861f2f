// The JSON that callers see: of a job that runs, and of one that has ended. Documented in poolshift(8), "REPORT".
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "engine/job_record.h"
#include "flow/validate.h"
#include "include/poolshift.h"
#include "journal/job_store.h"

namespace poolshift {

// done, undone, cancelled, held; "open" while somebody runs it.
std::string state_of(const JobRecord& record, bool running);
poolshift_result result_of(const JobRecord& record, bool running);
poolshift_result result_of(ErrorCode code);

nlohmann::json report_of(const JobRecord& record);
nlohmann::json status_of(const JobStore::Seen& seen);
nlohmann::json report_of(const Validation& validation);

}  // namespace poolshift
