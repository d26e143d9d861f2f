// The C ABI: arguments, exceptions and JSON text. No logic: that is engine/host.h.
#include <fmt/core.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "adapters/event_fd.h"
#include "adapters/libvirt_hypervisor.h"
#include "adapters/posix_system.h"
#include "adapters/rbd_storage.h"
#include "base/json_reader.h"
#include "base/log.h"
#include "base/version.h"
#include "engine/host.h"
#include "include/poolshift.h"

using nlohmann::json;
using namespace poolshift;  // NOLINT(google-build-using-namespace)

struct poolshift_host {
  std::unique_ptr<Host> host;
};

struct poolshift_job {
  poolshift_host* host = nullptr;
  std::string id;
  std::shared_ptr<LocalJob> local;  // empty: another process, or another handle's host, runs it
};

namespace {

constexpr std::int64_t kLookEveryMs = 200;

char* copy_text(const std::string& text) {
  char* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy != nullptr) std::memcpy(copy, text.c_str(), text.size() + 1);
  return copy;
}

void give(char** out, const json& value) {
  if (out != nullptr) *out = copy_text(value.dump(-1, ' ', false, json::error_handler_t::replace));
}

poolshift_result fail(char** error, const Error& reason) {
  give(error, error_to_json(reason));
  return result_of(reason.code);
}

poolshift_result missing(char** error, const char* argument) {
  return fail(error, {ErrorCode::invalid, fmt::format("argument '{}' is NULL", argument), "Give it."});
}

// Runs `body` and turns what it throws into POOLSHIFT_INTERNAL.
template <class Body>
int guarded(char** error, Body body) {
  if (error != nullptr) *error = nullptr;
  try {
    return body();
  } catch (const std::exception& reason) {
    return fail(error, {ErrorCode::internal, reason.what(), "Report it."});
  } catch (...) {
    return fail(error, {ErrorCode::internal, "an unknown exception", "Report it."});
  }
}

int answer(const Result<Host::Answer>& found, char** out, char** error) {
  if (!found) return fail(error, found.error());
  give(out, found->json);
  if (found->result != POOLSHIFT_OK && found->json.contains("error") && !found->json["error"].is_null()) {
    give(error, found->json["error"]);
  }
  return found->result;
}

int wait_local(const LocalJob& local, char** status) {
  give(status, local.report());
  return local.result();
}

}  // namespace

const char* poolshift_version(void) { return kVersion; }

unsigned poolshift_abi_version(void) { return POOLSHIFT_ABI_MAJOR * 1000 + POOLSHIFT_ABI_MINOR; }

char* poolshift_capabilities(void) {
  char* text = nullptr;
  guarded(nullptr, [&] {
    give(&text, {{"schema", 1},
                 {"version", kVersion},
                 {"abi", poolshift_abi_version()},
                 {"engines", {"mirror", "handover"}},
                 {"hydrations", {"offload", "flatten"}},
                 {"request_schema", {1}},
                 {"journal_schema", {1}}});
    return POOLSHIFT_OK;
  });
  return text;
}

void poolshift_free(void* text) { std::free(text); }

int poolshift_host_open(const char* options_text, poolshift_host** host, char** error) {
  return guarded(error, [&] {
    if (host == nullptr) return missing(error, "host");
    *host = nullptr;
    const auto options = parse_host_options(options_text);
    if (!options) return fail(error, options.error());
    if (auto opened = open_log(options->log_file, options->log_level, options->log_journald); !opened) {
      return fail(error, opened.error());
    }
    if (options->owns_process) silence_libvirt_errors();
    auto opened = std::make_unique<poolshift_host>();
    opened->host = std::make_unique<Host>(*options, HostPorts{make_libvirt_hypervisor(options->connect_uri),
                                                              make_rbd_storage(), make_posix_system(), make_event_fd});
    if (auto ready = opened->host->open(); !ready) {
      fail(error, ready.error());
      return POOLSHIFT_HELD;
    }
    *host = opened.release();
    return POOLSHIFT_OK;
  });
}

void poolshift_host_close(poolshift_host* host) {
  guarded(nullptr, [&] {
    delete host;
    return POOLSHIFT_OK;
  });
}

int poolshift_check(poolshift_host* host, const char* request_text, char** report, char** error) {
  return guarded(error, [&]() -> int {
    if (report != nullptr) *report = nullptr;
    if (host == nullptr) return missing(error, "host");
    if (request_text == nullptr) return missing(error, "request");
    const auto request = parse_request(request_text);
    if (!request) return fail(error, request.error());
    return answer(host->host->check(*request), report, error);
  });
}

int poolshift_job_start(poolshift_host* host, const char* request_text, poolshift_job** job, char** error) {
  return guarded(error, [&] {
    if (job == nullptr) return missing(error, "job");
    *job = nullptr;
    if (host == nullptr) return missing(error, "host");
    if (request_text == nullptr) return missing(error, "request");
    const auto request = parse_request(request_text);
    if (!request) return fail(error, request.error());
    auto view = std::make_unique<poolshift_job>();
    view->host = host;
    view->local = host->host->start(*request);
    view->id = view->local->id();
    *job = view.release();
    return POOLSHIFT_OK;
  });
}

int poolshift_job_attach(poolshift_host* host, const char* job_id, poolshift_job** job, char** error) {
  return guarded(error, [&] {
    if (job == nullptr) return missing(error, "job");
    *job = nullptr;
    if (host == nullptr) return missing(error, "host");
    if (job_id == nullptr) return missing(error, "job_id");
    if (const auto seen = host->host->look_at(job_id); !seen) return fail(error, seen.error());
    *job = std::make_unique<poolshift_job>(poolshift_job{host, job_id, nullptr}).release();
    return POOLSHIFT_OK;
  });
}

int poolshift_job_wait(poolshift_job* job, int timeout_ms, char** status, char** error) {
  return guarded(error, [&]() -> int {
    if (status != nullptr) *status = nullptr;
    if (job == nullptr) return missing(error, "job");
    if (job->local && job->local->done().wait_ms(timeout_ms)) return wait_local(*job->local, status);
    Host& host = *job->host->host;
    const auto deadline_ms = host.system().monotonic_ms() + timeout_ms;
    for (;;) {
      auto seen = host.look_at(job->id);
      // Its own thread may end it between the two looks, and while it validates there is no journal yet.
      if (job->local && job->local->done().wait_ms(0)) return wait_local(*job->local, status);
      if (!seen && job->local && seen.error().code == ErrorCode::not_found) {
        give(status, {{"schema", 1},
                      {"job", job->id},
                      {"phase", "validate"},
                      {"state", "open"},
                      {"running", true},
                      {"guest_on", "source"},
                      {"progress", nullptr}});
        return POOLSHIFT_RUNNING;
      }
      if (!seen) return fail(error, seen.error());
      const bool time_is_up = timeout_ms >= 0 && host.system().monotonic_ms() >= deadline_ms;
      if (seen->result != POOLSHIFT_RUNNING || job->local || time_is_up) {
        give(status, seen->json);
        return seen->result;
      }
      host.system().sleep_ms(kLookEveryMs);
    }
  });
}

int poolshift_job_fd(poolshift_job* job) { return job != nullptr && job->local ? job->local->done().fd() : -1; }

int poolshift_job_set(poolshift_job* job, const char* settings, char** error) {
  return guarded(error, [&] {
    if (job == nullptr) return missing(error, "job");
    if (settings == nullptr) return missing(error, "settings");
    const auto bandwidth = parse_settings(settings);
    if (!bandwidth) return fail(error, bandwidth.error());
    if (auto set = job->host->host->set_bandwidth(job->id, *bandwidth, job->local.get()); !set)
      return fail(error, set.error());
    return POOLSHIFT_OK;
  });
}

int poolshift_job_cancel(poolshift_job* job, char** error) {
  return guarded(error, [&] {
    if (job == nullptr) return missing(error, "job");
    if (auto asked = job->host->host->cancel(job->id, job->local.get()); !asked) return fail(error, asked.error());
    return POOLSHIFT_OK;
  });
}

int poolshift_job_leave(poolshift_job* job, char** error) {
  return guarded(error, [&] {
    if (job == nullptr) return missing(error, "job");
    if (!job->local || job->local->done().wait_ms(0)) {
      return fail(error, {ErrorCode::refused, fmt::format("job '{}' is not run by this host", job->id),
                          "Only the process that runs a job can leave it."});
    }
    job->local->leave() = true;
    return POOLSHIFT_OK;
  });
}

void poolshift_job_release(poolshift_job* job) { delete job; }

int poolshift_jobs(poolshift_host* host, char** list, char** error) {
  return guarded(error, [&] {
    if (list != nullptr) *list = nullptr;
    if (host == nullptr) return missing(error, "host");
    const auto jobs = host->host->jobs();
    if (!jobs) return fail(error, jobs.error());
    give(list, *jobs);
    return POOLSHIFT_OK;
  });
}

int poolshift_disks(poolshift_host* host, char** list, char** error) {
  return guarded(error, [&] {
    if (list != nullptr) *list = nullptr;
    if (host == nullptr) return missing(error, "host");
    const auto disks = host->host->disks();
    if (!disks) return fail(error, disks.error());
    give(list, *disks);
    return POOLSHIFT_OK;
  });
}

int poolshift_recover(poolshift_host* host, const char* options, char** report, char** error) {
  return guarded(error, [&]() -> int {
    if (report != nullptr) *report = nullptr;
    if (host == nullptr) return missing(error, "host");
    std::string job_id;
    if (options != nullptr) {
      JsonReader reader(options, "recover options", kMaxRequestBytes);
      job_id = reader.text("job", 64);
      if (auto status = reader.finish(); !status) return fail(error, status.error());
    }
    return answer(host->host->recover(job_id), report, error);
  });
}

int poolshift_rescue(poolshift_host* host, const char* request_text, int dry_run, char** report, char** error) {
  return guarded(error, [&]() -> int {
    if (report != nullptr) *report = nullptr;
    if (host == nullptr) return missing(error, "host");
    if (request_text == nullptr) return missing(error, "request");
    const auto request = parse_request(request_text);
    if (!request) return fail(error, request.error());
    const auto rescued = host->host->rescue(*request, dry_run != 0);
    if (!rescued) return fail(error, rescued.error());
    give(report, *rescued);
    return POOLSHIFT_OK;
  });
}

int poolshift_doctor(poolshift_host* host, char** report, char** error) {
  return guarded(error, [&]() -> int {
    if (report != nullptr) *report = nullptr;
    if (host == nullptr) return missing(error, "host");
    return answer(host->host->doctor(), report, error);
  });
}
