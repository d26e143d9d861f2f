// Statuses and reports of jobs as the library gives them, read without trust: what is missing is empty.
#pragma once

#include <nlohmann/json.hpp>

#include "base/json_reader.h"
#include "base/result.h"

namespace poolshift {

nlohmann::json part_at(const nlohmann::json& object, const char* key);

// By its status or report: it runs, or is held.
bool is_open_job(const nlohmann::json& job);

// As it stands in the files of the spool and in reports.
nlohmann::json error_json(const Error& error);

}  // namespace poolshift
