#include <fmt/core.h>
#include <unistd.h>

#include <chrono>
#include <future>
#include <map>
#include <set>

#include "commands/commands.h"
#include "library.h"
#include "output.h"
#include "signals.h"
#include "summary.h"
#include "text.h"

namespace poolshift::cli {

namespace {

using namespace std::chrono_literals;

constexpr const char* kName = "poolshift recover";
constexpr int kSliceMs = 200;

Document running_jobs(Host& host) {
  Document running = Document::array();
  const auto reply = host.jobs();
  for (const auto& job : part_at(reply.document, "jobs")) {
    if (true_at(job, "running")) running.push_back(job);
  }
  return running;
}

// What poolshift_recover() does meanwhile, as seen from outside: there is no handle to wait on, nor to leave
// by.
class Bystander {
 public:
  explicit Bystander(Host& host) : host_(host) {
    for (const auto& job : running_jobs(host)) others_.insert(text_at(job, "job"));
  }

  void look() {
    for (const auto& job : running_jobs(host_)) {
      const auto id = text_at(job, "job");
      const auto phase = text_at(job, "phase");
      if (others_.contains(id) || phases_[id] == phase) continue;
      phases_[id] = phase;
      write_line(kStderr, fmt::format("job {}: {}", printable(id), printable(phase)));
    }
  }

 private:
  Host& host_;
  std::set<std::string> others_;
  std::map<std::string, std::string> phases_;
};

Reply recover_watched(Host& host, const Document& wanted, SignalWatch& signals, const std::string& host_arguments) {
  Bystander bystander(host);
  auto ended = std::async(std::launch::async, [&] { return host.recover(wanted); });
  while (ended.wait_for(0s) != std::future_status::ready) {
    bystander.look();
    signals.wait(-1, kSliceMs);
    if (!signals.take()) continue;
    // As safe as any other death of this process: the journals say where to go on.
    write_line(kStderr, fmt::format("left: 'poolshift recover{}' goes on with what is open", host_arguments));
    _exit(POOLSHIFT_HELD);
  }
  return ended.get();
}

std::string text_of(const Document& report, const Options& options, std::size_t columns) {
  const auto& jobs = part_at(report, "jobs");
  if (jobs.empty()) return "nothing to recover\n";
  std::string text;
  for (const auto& job : jobs) {
    text += fmt::format("job {}: {}", printable(text_at(job, "job")), summary_of(job, options.host.as_given, columns));
  }
  return text;
}

}  // namespace

int run_recover(const Options& options) {
  SignalWatch signals;
  auto host = Host::open(host_document(options.host));
  if (!host) return report_failure(kName, host.failure(), options.json);
  Document wanted = {{"schema", 1}};
  if (!options.job.empty()) wanted["job"] = options.job;
  const auto reply = recover_watched(*host, wanted, signals, options.host.as_given);
  if (reply.document.is_null()) return report_failure(kName, reply.failure, options.json);
  const int fd = options.json ? kStderr : kStdout;
  write_text(fd, text_of(reply.document, options, columns_of(fd)));
  if (options.json) write_document(reply.document);
  return reply.result;
}

}  // namespace poolshift::cli
