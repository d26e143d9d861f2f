// What the log says of jobs: the fields that its messages have in systemd's journal (poolshift(8), LOGGING), and the
// message with which each job begins and ends.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/log.h"
#include "engine/job_record.h"

namespace poolshift {

// MESSAGE_ID of the message that a job is held. Durable: operators look for it.
inline constexpr const char* kHeldMessageId = "c96c1de60b6d4105bbf2e44fb01ef60a";

// `record` is looked at with each message, and has to live as long as the scope that this is for.
std::function<LogFields::List()> fields_of(const JobRecord& record);

void log_begin(const JobRecord& record);
// `report` is of a job that nobody runs any more, or of a request that was refused.
void log_end(const nlohmann::json& report);

}  // namespace poolshift
