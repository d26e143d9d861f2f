#include <fmt/core.h>

#include <chrono>

#include "commands/commands.h"
#include "library.h"
#include "output.h"
#include "signals.h"
#include "table.h"

namespace poolshift::cli {

namespace {

constexpr const char* kName = "poolshift status";
constexpr int kWatchMs = 1000;

double wall_clock_s() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// What is shown: one job, or all of them.
struct View {
  Document document;
  std::string text;
  bool any_running = false;
};

Outcome<View> view_of_job(Host& host, const std::string& job_id, std::size_t columns) {
  auto job = host.attach(job_id);
  if (!job) return job.failure();
  const auto reply = job->wait(0);
  if (reply.document.is_null()) return reply.failure;
  return View{reply.document, job_details(reply.document, wall_clock_s(), columns), reply.result == POOLSHIFT_RUNNING};
}

Outcome<View> view_of_all(Host& host, std::size_t columns) {
  const auto reply = host.jobs();
  if (!reply.ok()) return reply.failure;
  View view{reply.document, "", false};
  const auto& jobs = part_at(reply.document, "jobs");
  view.text = jobs.empty() ? "no jobs\n" : jobs_table(jobs, wall_clock_s(), columns);
  for (const auto& job : jobs) view.any_running = view.any_running || true_at(job, "running");
  return view;
}

Outcome<View> view_of(Host& host, const Options& options) {
  const auto columns = columns_of(kStdout);
  return options.job.empty() ? view_of_all(host, columns) : view_of_job(host, options.job, columns);
}

void show(const Options& options, const View& view) {
  if (options.json) return write_document(view.document);
  if (options.watch && is_terminal(kStdout)) write_text(kStdout, "\033[H\033[J");
  write_text(kStdout, view.text);
}

}  // namespace

int run_status(const Options& options) {
  SignalWatch signals;
  auto host = Host::open(host_document(options.host));
  if (!host) return report_failure(kName, host.failure(), options.json);
  for (;;) {
    const auto view = view_of(*host, options);
    if (!view) return report_failure(kName, view.failure(), options.json);
    show(options, *view);
    if (!options.watch || !view->any_running) return POOLSHIFT_OK;
    signals.wait(-1, kWatchMs);
    if (signals.take()) return POOLSHIFT_OK;
  }
}

}  // namespace poolshift::cli
