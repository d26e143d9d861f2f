#include <fmt/core.h>

#include "commands/commands.h"
#include "library.h"
#include "output.h"

namespace poolshift::cli {

namespace {

constexpr const char* kName = "poolshift cancel";

}  // namespace

int run_cancel(const Options& options) {
  auto host = Host::open(host_document(options.host));
  if (!host) return report_failure(kName, host.failure(), options.json);
  auto job = host->attach(options.job);
  if (!job) return report_failure(kName, job.failure(), options.json);
  const auto reply = job->cancel();
  if (!reply.ok()) return report_failure(kName, reply.failure, options.json);
  write_line(options.json ? kStderr : kStdout,
             fmt::format("job {} is asked to stop and undo; follow it with: poolshift status {} --watch{}", options.job,
                         options.job, options.host.as_given));
  if (options.json) write_document({{"schema", 1}, {"job", options.job}, {"asked", "cancel"}, {"error", nullptr}});
  return POOLSHIFT_OK;
}

}  // namespace poolshift::cli
