#include <fmt/core.h>

#include "commands/commands.h"
#include "library.h"
#include "output.h"
#include "sizes.h"

namespace poolshift::cli {

namespace {

constexpr const char* kName = "poolshift set";

std::string limit_text(std::uint64_t bytes_per_s) {
  return bytes_per_s == 0 ? "no limit"
                          : fmt::format("at most {} a second", format_bytes(static_cast<double>(bytes_per_s)));
}

}  // namespace

int run_set(const Options& options) {
  if (!options.bandwidth_bytes_per_s) {
    const auto nothing = usage_error("there is nothing to set", "Give '--bandwidth', for example --bandwidth 50M.");
    return report_failure(kName, nothing, options.json);
  }
  auto host = Host::open(host_document(options.host));
  if (!host) return report_failure(kName, host.failure(), options.json);
  auto job = host->attach(options.job);
  if (!job) return report_failure(kName, job.failure(), options.json);
  const auto reply = job->set({{"schema", 1}, {"bandwidth_bytes_per_s", *options.bandwidth_bytes_per_s}});
  if (!reply.ok()) return report_failure(kName, reply.failure, options.json);
  write_line(options.json ? kStderr : kStdout,
             fmt::format("job {}: {}", options.job, limit_text(*options.bandwidth_bytes_per_s)));
  if (options.json) {
    write_document({{"schema", 1},
                    {"job", options.job},
                    {"bandwidth_bytes_per_s", *options.bandwidth_bytes_per_s},
                    {"error", nullptr}});
  }
  return POOLSHIFT_OK;
}

}  // namespace poolshift::cli
