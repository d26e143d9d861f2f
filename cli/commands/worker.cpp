#include <fmt/core.h>
#include <unistd.h>

#include "commands/commands.h"
#include "library.h"
#include "output.h"
#include "signals.h"
#include "text.h"
#include "work.h"

namespace poolshift::cli {

namespace {

constexpr const char* kName = "poolshift worker";
constexpr int kLookEveryMs = 500;
constexpr int kLockEveryMs = 1'000;

void say(const std::string& text) { write_line(kStdout, printable(text)); }

// Empty: it is ours. A signal ends the wait; then 0 is given.
std::optional<int> take_over(WorkerProcess& process, const Options& options, SignalWatch& signals) {
  bool told = false;
  for (;;) {
    const auto taken = process.take_over();
    if (taken) return std::nullopt;
    if (taken.error().code != ErrorCode::busy) return report_failure(kName, failure_of(taken.error()), false);
    if (options.once) {
      const Error busy{ErrorCode::busy, fmt::format("another worker runs for '{}'", process.spool().folder()),
                       "It does what waits there; 'poolshift queue' shows it."};
      return report_failure(kName, failure_of(busy), false);
    }
    if (!told) say("another worker runs: waiting for its end");
    told = true;
    signals.wait(-1, kLockEveryMs);
    if (signals.take()) return POOLSHIFT_OK;
  }
}

}  // namespace

int run_worker(const Options& options) {
  SignalWatch signals;
  auto host = Host::open(host_document(options.host));
  if (!host) return report_failure(kName, host.failure(), false);
  WorkerProcess process(*host, options, nullptr, say);
  if (const auto opened = process.open(); !opened) return report_failure(kName, failure_of(opened.error()), false);
  if (const auto ended = take_over(process, options, signals)) return *ended;
  for (;;) {
    const auto outlook = process.step();
    if (process.must_end()) _exit(POOLSHIFT_OK);
    if (outlook && process.is_leaving() && outlook->running == 0) return POOLSHIFT_OK;
    if (outlook && outlook->is_idle()) return POOLSHIFT_OK;
    if (options.once && !outlook) return POOLSHIFT_HELD;
    if (options.once && outlook->running == 0) return outlook->held > 0 ? POOLSHIFT_HELD : POOLSHIFT_OK;
    signals.wait(-1, kLookEveryMs);
    if (!signals.take()) continue;
    if (process.is_leaving()) _exit(POOLSHIFT_OK);  // asked twice
    say("ending: swaps that run are left to the next worker");
    process.leave();
  }
}

}  // namespace poolshift::cli
