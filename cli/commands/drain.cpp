#include <fmt/core.h>
#include <fnmatch.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "commands/commands.h"
#include "drain_table.h"
#include "library.h"
#include "output.h"
#include "signals.h"
#include "spool_swaps.h"
#include "text.h"
#include "work.h"

namespace poolshift::cli {

using nlohmann::json;

namespace {

constexpr const char* kName = "poolshift drain";
constexpr int kLookEveryMs = 500;

// A disk, and what was asked for it.
struct Item {
  SpoolRequest request;
  DrainLine line;
  bool is_over = false;  // it will not change any more
};

class Drain {
 public:
  Drain(const Options& options, Host& host, SignalWatch& signals)
      : options_(options),
        host_(host),
        signals_(signals),
        view_(human_fd()),
        process_(
            host, options, [this](const SpoolRequest& request) { return is_ours(request); },
            [this](const std::string& text) {
              if (options_.host.verbose) view_.note(text);
            }) {}

  int run() {
    if (auto found = find_disks(); !found) return report_failure(kName, found.failure(), options_.json);
    if (options_.dry_run) return show_plan();
    if (const auto opened = process_.open(); !opened) return fail(opened.error());
    if (const auto asked = ask(); !asked) return fail(asked.error());
    if (const auto followed = follow(); !followed) return fail(followed.error());
    return report(exit_code());
  }

 private:
  int human_fd() const { return options_.json ? kStderr : kStdout; }
  int fail(const Error& error) {
    view_.clear();
    return report_failure(kName, failure_of(error), options_.json);
  }
  std::string rule() const { return fmt::format("{} to {}", options_.drain.from, options_.drain.to); }
  bool is_ours(const SpoolRequest& request) const {
    return request.origin == Origin::drain && request.policy == rule();
  }

  SpoolRequest request_for(const Document& disk) const {
    const auto& source = part_at(disk, "source");
    SpoolRequest request;
    request.origin = Origin::drain;
    request.policy = rule();
    request.domain_uuid = text_at(disk, "domain_uuid");
    request.domain_name = text_at(disk, "domain");
    request.disk = text_at(disk, "disk");
    request.source = {text_at(source, "pool"), text_at(source, "namespace"), text_at(source, "image")};
    const auto slash = options_.drain.to.find('/');
    const ImageName target{
        options_.drain.to.substr(0, slash),
        slash == std::string::npos ? request.source.rbd_namespace : options_.drain.to.substr(slash + 1),
        request.source.image};
    request.swap = {{"target", to_string(target)}, {"create", true}, {"engine", options_.drain.engine}};
    if (options_.drain.source_after == "trash") request.swap["source_after"] = "trash";
    // In the request, so that it holds whichever worker makes the swap.
    if (options_.bandwidth_bytes_per_s) {
      request.swap["bandwidth_bytes_per_s"] = share_of(*options_.bandwidth_bytes_per_s);
    }
    request.at_most = options_.worker.parallel;
    return request;
  }

  std::uint64_t share_of(std::uint64_t bytes_per_s) const {
    return bytes_per_s == 0 ? 0 : std::max<std::uint64_t>(bytes_per_s / options_.worker.parallel, 1);
  }

  void add(SpoolRequest request, const std::string& state, const std::string& why = "") {
    Item item;
    item.line = {request.domain_name,
                 request.disk,
                 to_string(request.source),
                 request.swap.value("target", ""),
                 state,
                 "",
                 why,
                 nullptr};
    item.is_over = state == "left out";
    item.request = std::move(request);
    items_.push_back(std::move(item));
  }

  Outcome<bool> find_disks() {
    const auto reply = host_.disks();
    if (!reply.ok()) return reply.failure;
    for (const auto& disk : part_at(reply.document, "disks")) {
      const auto& source = part_at(disk, "source");
      if (text_at(source, "pool") != options_.drain.from) continue;
      if (!options_.drain.match.empty() &&
          ::fnmatch(options_.drain.match.c_str(), text_at(source, "image").c_str(), 0) != 0) {
        continue;
      }
      if (true_at(disk, "openstack") && !options_.drain.openstack) {
        add(request_for(disk), "left out",
            "OpenStack manages the domain, and would not know: retype the volume, or give --openstack");
      } else {
        add(request_for(disk), "waiting");
      }
    }
    return true;
  }

  int show_plan() {
    for (auto& item : items_) {
      if (item.is_over) continue;
      const auto reply = host_.check(ordered(swap_request_of(item.request)));
      item.line.state = reply.ok() ? "would move" : "refused";
      item.line.why =
          reply.ok() ? text_at(part_at(reply.document, "plan"), "engine_reason") : sentence_of(reply.failure);
      if (reply.ok()) {
        item.line.why = fmt::format("engine {}: {}", text_at(part_at(reply.document, "plan"), "engine"), item.line.why);
      }
    }
    return report(exit_code());
  }

  // What an earlier drain of these pools has asked for and is not over belongs to this one too.
  Status ask() {
    for (auto& item : items_) {
      if (!item.is_over) POOLSHIFT_TRY(ask_for(item));
    }
    const auto asked = asked_for();
    if (!asked) return asked.error();
    for (const auto& request : *asked) {
      const bool known =
          std::any_of(items_.begin(), items_.end(), [&](const Item& item) { return item.request.id == request.id; });
      if (!known && is_ours(request)) add(request, "waiting");
    }
    return {};
  }

  Status ask_for(Item& item) {
    const auto id = process_.spool().submit(item.request);
    if (!id && id.error().code != ErrorCode::exists) return id.error();
    const auto asked = asked_for();
    if (!asked) return asked.error();
    const auto key = disk_key(item.request);
    const auto found =
        std::find_if(asked->begin(), asked->end(), [&](const SpoolRequest& each) { return disk_key(each) == key; });
    if (found != asked->end()) {
      item.request = *found;
      item.line.target = found->swap.value("target", "");
    } else {
      end(item, "failed", "its request was ended by somebody else just now; look where the disk is");
    }
    return {};
  }

  Result<std::vector<SpoolRequest>> asked_for() {
    auto requests = process_.spool().waiting();
    if (!requests) return requests;
    auto running = process_.spool().running();
    if (!running) return running;
    requests->insert(requests->end(), running->begin(), running->end());
    return requests;
  }

  static void end(Item& item, const std::string& state, const std::string& why) {
    item.line.state = state;
    item.line.why = why;
    item.is_over = true;
  }

  Status follow() {
    while (std::any_of(items_.begin(), items_.end(), [](const Item& item) { return !item.is_over; })) {
      if (process_.worker() == nullptr) {
        const auto taken = process_.take_over();
        if (!taken && taken.error().code != ErrorCode::busy) return taken;
        if (!taken && !told_) view_.note("another worker runs: it makes the swaps, within its own limits");
        told_ = true;
      }
      auto outlook = process_.worker() != nullptr ? process_.step() : std::nullopt;
      POOLSHIFT_TRY(look());
      view_.show(lines());
      const bool nothing_runs = process_.worker() == nullptr || (outlook && outlook->running == 0);
      if (stopped_ && nothing_runs) return {};
      forced_ = process_.must_end();
      if (forced_) return {};
      signals_.wait(-1, kLookEveryMs);
      while (signals_.take()) on_signal();
      if (forced_) return {};
    }
    return {};
  }

  void on_signal() {
    if (!stopped_) {
      stopped_ = true;
      if (process_.worker() != nullptr) process_.worker()->stop_starting();
      for (const auto& item : items_) {
        // One that has been started meanwhile is finished.
        if (item.line.state == "waiting") (void)process_.spool().remove(item.request.id);
      }
      view_.note("stopping: swaps that run are finished; another Ctrl-C leaves them to the next worker or drain");
    } else if (process_.worker() != nullptr && !process_.is_leaving()) {
      process_.leave();
      view_.note("leaving the swaps as soon as they can be left");
    } else {
      forced_ = true;
    }
  }

  // The state of each item, by whoever works on it.
  Status look() {
    std::map<std::string, const Worker::Running*> mine;
    if (auto* worker = process_.worker()) {
      for (const auto& running : worker->running()) mine[running.request.id] = &running;
    }
    const auto asked = asked_for();
    if (!asked) return asked.error();
    json jobs;  // of another worker: read once, and only when needed
    for (auto& item : items_) {
      if (item.is_over) continue;
      const auto& id = item.request.id;
      if (const auto found = mine.find(id); found != mine.end()) {
        look_at_mine(item, *found->second);
        continue;
      }
      const auto finished = process_.spool().finished(item.request);
      if (!finished) return finished.error();
      if (*finished) {
        item.line.job = text_at(ordered((*finished)->report), "job");
        end(item, (*finished)->outcome, text_at(ordered((*finished)->error), "message"));
      } else if (std::none_of(asked->begin(), asked->end(), [&](const auto& each) { return each.id == id; })) {
        // It may have ended between the two looks: the next one knows.
        if (item.line.state == "gone") end(item, "failed", "its request is gone from the spool");
        if (!item.is_over) item.line.state = "gone";
      } else {
        if (jobs.is_null()) {
          const auto reply = host_.jobs();
          jobs = reply.ok() ? unordered(part_at(reply.document, "jobs")) : json::array();
        }
        look_at_anothers(item, ordered(job_of_request(item.request, jobs)));
      }
    }
    return {};
  }

  static void look_at_mine(Item& item, const Worker::Running& running) {
    item.line.job = running.job_id;
    if (running.job != nullptr) {
      item.line.state = "running";
      item.line.status = ordered(running.job->status());
      item.line.why.clear();
      return;
    }
    const auto error = part_at(ordered(running.report), "error");
    item.line.state = "held";
    item.line.why = fmt::format("{}. {}", text_at(error, "message"), text_at(error, "advice"));
    item.is_over = running.take_up_ms < 0 && !running.ended;
  }

  // `job`: null when there is none.
  static void look_at_anothers(Item& item, const Document& job) {
    const auto state = text_at(job, "state");
    item.line.status = job;
    item.line.job = text_at(job, "job");
    item.line.state = state == "open" ? "running" : state == "held" ? "held" : "waiting";
    const auto& error = part_at(job, "error");
    item.line.why =
        item.line.state == "held" ? fmt::format("{}. {}", text_at(error, "message"), text_at(error, "advice")) : "";
    // "left": its worker died, and the next one goes on with it.
    item.is_over = item.line.state == "held" && text_at(error, "code") != "left";
  }

  std::vector<DrainLine> lines() const {
    std::vector<DrainLine> out;
    for (const auto& item : items_) out.push_back(item.line);
    return out;
  }

  void write_table() {
    view_.clear();
    if (items_.empty()) {
      write_line(human_fd(), fmt::format("no disk of a domain on this host is in pool '{}'", options_.drain.from));
      return;
    }
    write_text(human_fd(), drain_table(lines(), columns_of(human_fd()), 0));
    write_line(human_fd(), drain_total(lines()));
  }

  int exit_code() const {
    const auto any = [&](std::initializer_list<const char*> states) {
      return std::any_of(items_.begin(), items_.end(), [&](const Item& item) {
        return std::any_of(states.begin(), states.end(), [&](const char* state) { return item.line.state == state; });
      });
    };
    if (any({"held", "running"})) return POOLSHIFT_HELD;
    if (any({"undone", "failed"})) return POOLSHIFT_UNDONE;
    if (stopped_ && any({"waiting", "removed"})) return POOLSHIFT_CANCELLED;
    if (any({"cancelled", "removed"})) return POOLSHIFT_CANCELLED;
    if (any({"refused", "left out"})) return POOLSHIFT_REFUSED;
    return POOLSHIFT_OK;
  }

  int report(int result) {
    write_table();
    if (options_.json) {
      Document disks = Document::array();
      for (const auto& item : items_) {
        disks.push_back({{"domain", item.line.domain},
                         {"domain_uuid", item.request.domain_uuid},
                         {"disk", item.line.disk},
                         {"source", item.line.source},
                         {"target", item.line.target},
                         {"state", item.line.state},
                         {"request", item.request.id},
                         {"job", item.line.job},
                         {"why", item.line.why}});
      }
      write_document({{"schema", 1},
                      {"from", options_.drain.from},
                      {"to", options_.drain.to},
                      {"stopped", stopped_},
                      {"disks", disks},
                      {"error", nullptr}});
    }
    if (forced_) _exit(result);  // without waiting for the library's threads
    return result;
  }

  const Options& options_;
  Host& host_;
  SignalWatch& signals_;
  DrainView view_;
  WorkerProcess process_;
  std::vector<Item> items_;
  bool told_ = false;
  bool stopped_ = false;
  bool forced_ = false;
};

}  // namespace

int run_drain(const Options& options) {
  SignalWatch signals;
  auto host = Host::open(host_document(options.host));
  if (!host) return report_failure(kName, host.failure(), options.json);
  return Drain(options, *host, signals).run();
}

}  // namespace poolshift::cli
