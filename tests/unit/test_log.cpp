// The fields of what is logged in systemd's journal. That they get there is looked at in tests/cli/check_journald.sh.
#include <catch2/catch.hpp>
#include <thread>

#include "engine/job_log.h"

namespace poolshift {

TEST_CASE("log fields are those of the thread, the newest first") {
  CHECK(LogFields::current().empty());
  const LogFields outer([] { return LogFields::List{{"ONE", "1"}, {"TWO", "2"}}; });
  {
    const LogFields inner([] { return LogFields::List{{"TWO", "two"}, {"THREE", "3"}}; });
    CHECK(LogFields::current() == LogFields::List{{"TWO", "two"}, {"THREE", "3"}, {"ONE", "1"}});
    std::thread([] { CHECK(LogFields::current().empty()); }).join();
  }
  CHECK(LogFields::current() == LogFields::List{{"ONE", "1"}, {"TWO", "2"}});
}

TEST_CASE("a job's log fields say what it is now") {
  JobRecord record;
  record.job_id = "0123456789ab";
  record.domain_name = "web";
  record.source = {"hdd", "", "web"};
  record.phase = Phase::copy;
  const LogFields about(fields_of(record));
  const auto field = [](const std::string& name) {
    for (const auto& [known, value] : LogFields::current()) {
      if (known == name) return value;
    }
    return std::string("none");
  };
  CHECK(field("POOLSHIFT_JOB") == "0123456789ab");
  CHECK(field("POOLSHIFT_DOMAIN") == "web");
  CHECK(field("POOLSHIFT_SOURCE") == "hdd/web");
  CHECK(field("POOLSHIFT_PHASE") == "copy");
  CHECK(field("POOLSHIFT_STATE") == "open");
  record.phase = Phase::held_on_source;
  CHECK(field("POOLSHIFT_STATE") == "held");
  record.phase = Phase::undone;
  CHECK(field("POOLSHIFT_STATE") == "undone");
  record.cancelled = true;
  CHECK(field("POOLSHIFT_STATE") == "cancelled");
}

}  // namespace poolshift
