#include "spool/job_json.h"

namespace poolshift {

using nlohmann::json;

json part_at(const json& object, const char* key) {
  const auto entry = object.is_object() ? object.find(key) : object.end();
  return entry != object.end() ? *entry : json();
}

bool is_open_job(const json& job) {
  const auto state = text_at(job, "state");
  return state == "open" || state == "held";
}

json error_json(const Error& error) {
  return {{"code", name_of(error.code)}, {"message", error.message}, {"advice", error.advice}};
}

}  // namespace poolshift
