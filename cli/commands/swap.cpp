#include "commands/swap.h"

#include <fmt/core.h>
#include <unistd.h>

#include "commands/commands.h"
#include "follow.h"
#include "library.h"
#include "output.h"
#include "progress.h"
#include "signals.h"
#include "summary.h"

namespace poolshift::cli {

namespace {

// stdout belongs to JSON as soon as any is asked for.
bool json_on_stdout(const Options& options) { return options.json || options.progress == ProgressChoice::json; }

void report_end(const Options& options, const Follower& follower, const Reply& ended) {
  const bool done = ended.ok();
  const int fd = done && !json_on_stdout(options) ? kStdout : kStderr;
  if (follower.left(ended)) {
    write_line(kStderr, follower.left_message());
  } else {
    write_text(fd, summary_of(ended.document, options.host.as_given, columns_of(fd)));
  }
  if (options.json) write_document(ended.document);
}

int follow_to_the_end(const char* name, const Options& options, Job& job, SignalWatch& signals) {
  const ProgressSurroundings surroundings{json_on_stdout(options) ? kStderr : kStdout, options.json,
                                          options.host.verbose && options.host.log_file.empty()};
  const auto progress = make_progress(options.progress, surroundings);
  Follower follower(job, *progress, signals, options.host.as_given);
  const auto ended = follower.run();
  if (ended.document.is_null()) return report_failure(name, ended.failure, options.json);
  report_end(options, follower, ended);
  // Waiting for the library's threads is what the third signal asked us not to do.
  if (follower.forced()) _exit(ended.result);
  return ended.result;
}

}  // namespace

int swap_and_follow(const char* name, const Options& options, Host& host, SignalWatch& signals) {
  auto job = host.start(request_document(options));
  if (!job) return report_failure(name, job.failure(), options.json);
  return follow_to_the_end(name, options, *job, signals);
}

int run_swap(const Options& options) {
  constexpr const char* kName = "poolshift swap";
  if (options.dry_run) return run_check(options);
  SignalWatch signals;
  auto host = Host::open(host_document(options.host));
  if (!host) return report_failure(kName, host.failure(), options.json);
  return swap_and_follow(kName, options, *host, signals);
}

}  // namespace poolshift::cli
