#include <fmt/core.h>

#include <chrono>
#include <limits>

#include "adapters/posix_system.h"
#include "commands/commands.h"
#include "library.h"
#include "output.h"
#include "sizes.h"
#include "spool/schedule.h"
#include "spool_swaps.h"
#include "table.h"
#include "text.h"
#include "work.h"

namespace poolshift::cli {

using nlohmann::json;

namespace {

constexpr const char* kName = "poolshift queue";
constexpr std::size_t kMostFinished = 20;  // of each kind

json entry_of(const SpoolRequest& request, const std::string& state) {
  json entry = to_json(request);
  entry.erase("schema");
  entry["state"] = state;
  return entry;
}

Status add_waiting(Spool& spool, std::int64_t now_ms, json& list) {
  const auto requests = spool.waiting();
  if (!requests) return requests.error();
  std::vector<WaitingRequest> waiting;
  for (const auto& request : *requests) {
    const auto retry = spool.retry_of(request.id);
    if (!retry) return retry.error();
    waiting.push_back({request, *retry});
  }
  const auto running = spool.running();
  if (!running) return running.error();
  const auto waits_for =
      schedule(waiting, *running, std::numeric_limits<unsigned>::max(), now_ms, local_minute_of_day(now_ms));
  for (std::size_t i = 0; i < waiting.size(); ++i) {
    auto entry = entry_of(waiting[i].request, "waiting");
    // How many the worker does at once is its own matter.
    entry["waits_for"] = waits_for[i] == WaitsFor::nothing ? "the worker" : name_of(waits_for[i]);
    entry["attempts"] = waiting[i].retry.attempts;
    entry["not_before_ms"] = waiting[i].retry.not_before_ms;
    entry["error"] = waiting[i].retry.error;
    list.push_back(std::move(entry));
  }
  return {};
}

Status add_running(Spool& spool, Host& host, json& list) {
  const auto requests = spool.running();
  if (!requests) return requests.error();
  const auto reply = host.jobs();
  const auto jobs = reply.ok() ? unordered(part_at(reply.document, "jobs")) : json::array();
  for (const auto& request : *requests) {
    const auto job = job_of_request(request, jobs);
    const bool held = job.is_object() && job.value("state", "") == "held";
    auto entry = entry_of(request, held ? "held" : "running");
    entry["job"] = job;
    entry["error"] = job.is_object() ? job.value("error", json()) : json();
    list.push_back(std::move(entry));
  }
  return {};
}

void add_finished(const std::vector<Finished>& all, json& list) {
  for (const auto& finished : all) {
    auto entry = entry_of(finished.request, finished.outcome);
    entry["finished_ms"] = finished.finished_ms;
    entry["attempts"] = finished.attempts;
    entry["error"] = finished.error;
    entry["job"] = finished.report;
    list.push_back(std::move(entry));
  }
}

Result<json> look(Spool& spool, Host& host, std::int64_t now_ms) {
  json list = json::array();
  json unreadable = json::array();
  POOLSHIFT_TRY(add_running(spool, host, list));
  POOLSHIFT_TRY(add_waiting(spool, now_ms, list));
  const auto failed = spool.failed(kMostFinished, &unreadable);
  if (!failed) return failed.error();
  add_finished(*failed, list);
  const auto done = spool.done(kMostFinished);
  if (!done) return done.error();
  add_finished(*done, list);
  return json{{"schema", 1}, {"requests", std::move(list)}, {"unreadable", std::move(unreadable)}};
}

std::string why_of(const Document& entry) {
  std::string why;
  if (text_at(entry, "state") == "waiting") why = fmt::format("waits for {}", text_at(entry, "waits_for"));
  const auto& error = part_at(entry, "error");
  const auto message = text_at(error, "message");
  if (message.empty()) return why;
  if (const auto attempts = number_at(entry, "attempts"); !why.empty() && attempts) {
    why += fmt::format("; attempt {} failed", static_cast<int>(*attempts));
  }
  if (!why.empty()) why += ": ";
  why += message;
  if (text_at(entry, "state") == "held") why += ". " + text_at(error, "advice");
  return why;
}

std::string text_of(const Document& document, double now_s, std::size_t columns) {
  const auto& requests = part_at(document, "requests");
  const auto& unreadable = part_at(document, "unreadable");
  std::string text;
  if (requests.empty()) text = "no requests\n";
  if (!requests.empty()) {
    Table table({"REQUEST", "STATE", "JOB", "AGE", "ASKED BY", "DOMAIN", "DISK", "SOURCE -> TARGET, WHY"});
    const auto cell = [](const std::string& value) { return value.empty() ? "-" : printable(value); };
    for (const auto& entry : requests) {
      const auto& source = part_at(entry, "source");
      const auto policy = text_at(entry, "policy");
      const ImageName image{text_at(source, "pool"), text_at(source, "namespace"), text_at(source, "image")};
      const auto created_ms = number_at(entry, "created_ms").value_or(0);
      const auto why = why_of(entry);
      table.add({cell(text_at(entry, "id")), cell(text_at(entry, "state")), cell(text_at(part_at(entry, "job"), "job")),
                 format_age(now_s - created_ms / 1000),
                 cell(text_at(entry, "origin") + (policy.empty() ? "" : " '" + policy + "'")),
                 cell(text_at(part_at(entry, "domain"), "name")), cell(text_at(entry, "disk")),
                 printable(to_string(image)) + " -> " + cell(text_at(part_at(entry, "swap"), "target"))});
      if (!why.empty()) table.add_below(printable(why));
    }
    text = table.render(columns);
  }
  for (const auto& entry : unreadable) {
    text += fmt::format("{}: {}\n", printable(text_at(entry, "file")),
                        printable(text_at(part_at(entry, "error"), "message")));
  }
  return text;
}

int report(const Options& options, const std::string& text, const Document& document) {
  write_text(options.json ? kStderr : kStdout, text);
  if (options.json) write_document(document);
  return POOLSHIFT_OK;
}

}  // namespace

int run_queue(const Options& options) {
  const auto system = make_posix_system();
  Spool spool(*system, options.host.state_dir);
  if (!options.remove_request.empty()) {
    const auto removed = spool.remove(options.remove_request);
    if (!removed) return report_failure(kName, failure_of(removed.error()), options.json);
    return report(options, fmt::format("request {} is removed\n", options.remove_request),
                  {{"schema", 1}, {"removed", options.remove_request}, {"error", nullptr}});
  }
  if (!options.retry_request.empty()) {
    const auto again = spool.retry(options.retry_request);
    if (!again) return report_failure(kName, failure_of(again.error()), options.json);
    return report(options, fmt::format("asked for again as request {}\n", *again),
                  {{"schema", 1}, {"request", *again}, {"error", nullptr}});
  }
  auto host = Host::open(host_document(options.host));
  if (!host) return report_failure(kName, host.failure(), options.json);
  const auto now_ms = system->wall_clock_ms();
  const auto found = look(spool, *host, now_ms);
  if (!found) return report_failure(kName, failure_of(found.error()), options.json);
  const auto document = ordered(*found);
  const int fd = options.json ? kStderr : kStdout;
  return report(options, text_of(document, static_cast<double>(now_ms) / 1000, columns_of(fd)), document);
}

}  // namespace poolshift::cli
