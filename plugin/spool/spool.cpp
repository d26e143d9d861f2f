#include "spool/spool.h"

#include <fmt/core.h>

#include <algorithm>
#include <tuple>

#include "base/json_reader.h"
#include "spool/job_json.h"

namespace poolshift {

using nlohmann::json;

namespace {

constexpr const char* kQueue = "queue";
constexpr const char* kRunning = "running";
constexpr const char* kRetry = "retry";
constexpr const char* kDone = "done";
constexpr const char* kFailed = "failed";
constexpr const char* kBad = "bad-";
constexpr const char* kRemoved = "removed-";
constexpr const char* kSuffix = ".json";
constexpr std::uint64_t kMaxFinishedBytes = 8 * 1024 * 1024;  // a report has every check in it
constexpr std::uint64_t kMostAttempts = 1'000'000;

std::string text_of(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

bool ends_with_suffix(const std::string& name) { return name.ends_with(kSuffix); }

// Sorts by the time at which it was asked for.
std::string finished_name(const SpoolRequest& request) {
  return fmt::format("{:013}-{}{}", request.created_ms, request.id, kSuffix);
}

// Whether the file itself is at fault, not the system that could not read it.
bool is_bad_file(const Error& error) { return error.code == ErrorCode::invalid || error.code == ErrorCode::damaged; }

Result<Finished> parse_finished(const std::string& text) {
  JsonReader reader(text, "finished request", kMaxFinishedBytes);
  for (const auto* key : {"request", "finished_ms", "outcome"}) reader.require(key);
  Finished finished;
  const auto request = reader.object("request");
  finished.finished_ms = static_cast<std::int64_t>(reader.whole_number("finished_ms", INT64_MAX, 0));
  finished.outcome = reader.text("outcome", 32);
  finished.attempts = static_cast<unsigned>(reader.whole_number("attempts", kMostAttempts, 0));
  finished.report = reader.has("report") ? reader.object("report") : json();
  finished.error = reader.has("error") ? reader.object("error") : json();
  POOLSHIFT_TRY(reader.finish());
  auto parsed = parse_spool_request(text_of(request));
  if (!parsed) return parsed.error();
  finished.request = std::move(*parsed);
  return finished;
}

// A removed request is only moved: it has no more to it than when it waited.
Result<Finished> parse_removed(const std::string& text) {
  auto request = parse_spool_request(text);
  if (!request) return request.error();
  Finished finished;
  finished.finished_ms = request->created_ms;
  finished.request = std::move(*request);
  finished.outcome = "removed";
  return finished;
}

json to_json(const Finished& finished) {
  json out = {{"schema", 1},
              {"request", to_json(finished.request)},
              {"finished_ms", static_cast<std::uint64_t>(std::max<std::int64_t>(finished.finished_ms, 0))},
              {"outcome", finished.outcome},
              {"attempts", finished.attempts}};
  if (!finished.report.is_null()) out["report"] = finished.report;
  if (!finished.error.is_null()) out["error"] = finished.error;
  return out;
}

}  // namespace

std::string Spool::path(const char* folder, const std::string& name) const {
  return fmt::format("{}/{}/{}", dir_, folder, name);
}

std::string Spool::path_of(const char* folder, const SpoolRequest& request) const {
  return path(folder, disk_key(request) + kSuffix);
}

Status Spool::open() {
  // QEMU's user passes through the state folder, to the overlays beside the spool (journal/job_store.cpp).
  (void)system_.make_passable_folder(dir_.substr(0, dir_.rfind('/')));
  POOLSHIFT_TRY(system_.make_shared_folder(dir_));
  for (const auto* folder : {kQueue, kRunning, kRetry, kDone, kFailed}) {
    POOLSHIFT_TRY(system_.make_shared_folder(fmt::format("{}/{}", dir_, folder)));
  }
  return {};
}

Result<std::string> Spool::submit(SpoolRequest request) {
  if (request.id.empty()) request.id = system_.random_id();
  if (request.created_ms == 0) request.created_ms = system_.wall_clock_ms();
  const auto text = text_of(to_json(request)) + "\n";
  if (const auto checked = parse_spool_request(text); !checked) return checked.error();
  const Error asked_already{
      ErrorCode::exists,
      fmt::format("a swap of disk '{}' of domain '{}' is asked for already", request.disk, request.domain_name),
      "See 'poolshift queue'."};
  // A request that the worker claims or ends between these two looks is followed by this one, which finds the disk on
  // another image than it names, and is refused.
  const auto runs = system_.read_trusted_file(path_of(kRunning, request), kMaxSpoolRequestBytes);
  if (runs || runs.error().code != ErrorCode::not_found) return runs ? asked_already : runs.error();
  auto created = system_.create_file(path_of(kQueue, request), text);
  if (!created && created.error().code == ErrorCode::not_found) {
    POOLSHIFT_TRY(open());
    created = system_.create_file(path_of(kQueue, request), text);
  }
  if (!created) return created.error().code == ErrorCode::exists ? asked_already : created.error();
  return request.id;
}

Result<SpoolRequest> Spool::read_request(const std::string& path) {
  const auto text = system_.read_trusted_file(path, kMaxSpoolRequestBytes);
  if (!text) return text.error();
  auto request = parse_spool_request(*text);
  if (!request) return request;
  const auto name = path.substr(path.rfind('/') + 1);
  if (name != disk_key(*request) + kSuffix) {
    return Error{ErrorCode::invalid,
                 fmt::format("the spool request '{}' is about disk '{}' of domain {}", name, request->disk,
                             request->domain_uuid),
                 fmt::format("Name it '{}{}'.", disk_key(*request), kSuffix)};
  }
  return request;
}

Result<std::vector<SpoolRequest>> Spool::requests_in(const char* folder, bool* any_bad) {
  const auto names = names_in(folder);
  if (!names) return names.error();
  std::vector<SpoolRequest> requests;
  for (const auto& name : *names) {
    auto request = read_request(path(folder, name));
    if (request) {
      requests.push_back(std::move(*request));
    } else if (is_bad_file(request.error())) {
      if (any_bad != nullptr) *any_bad = true;
    } else if (request.error().code != ErrorCode::not_found) {
      return request.error();
    }
  }
  std::sort(requests.begin(), requests.end(), [](const auto& one, const auto& other) {
    return std::tie(one.created_ms, one.id) < std::tie(other.created_ms, other.id);
  });
  return requests;
}

Result<std::vector<SpoolRequest>> Spool::waiting(bool* any_bad) { return requests_in(kQueue, any_bad); }

Result<std::vector<SpoolRequest>> Spool::running() { return requests_in(kRunning); }

Result<std::vector<std::string>> Spool::names_in(const char* folder) {
  auto names = system_.list_folder(fmt::format("{}/{}", dir_, folder));
  if (!names && names.error().code == ErrorCode::not_found) return std::vector<std::string>{};
  return names;
}

Result<Spool::Counts> Spool::counts() {
  const auto waiting = names_in(kQueue);
  if (!waiting) return waiting.error();
  const auto running = names_in(kRunning);
  if (!running) return running.error();
  const auto failed = names_in(kFailed);
  if (!failed) return failed.error();
  const auto is_failed = [](const std::string& name) { return ends_with_suffix(name) && !name.starts_with(kRemoved); };
  return Counts{waiting->size(), running->size(),
                static_cast<std::size_t>(std::count_if(failed->begin(), failed->end(), is_failed))};
}

Result<Retry> Spool::retry_of(const std::string& id) {
  const auto text = system_.read_trusted_file(path(kRetry, id + kSuffix), kMaxSpoolRequestBytes);
  if (!text && text.error().code == ErrorCode::not_found) return Retry{};
  if (!text) return text.error();
  JsonReader reader(*text, "retry", kMaxSpoolRequestBytes);
  Retry retry;
  retry.attempts = static_cast<unsigned>(reader.whole_number("attempts", kMostAttempts, 0));
  retry.not_before_ms = static_cast<std::int64_t>(reader.whole_number("not_before_ms", INT64_MAX, 0));
  if (reader.has("error")) retry.error = reader.object("error");
  // It may be lost; then the first attempt is made again.
  if (auto status = reader.finish(); !status) return Retry{};
  return retry;
}

Result<std::vector<Finished>> Spool::finished_in(const char* folder, std::size_t limit, json* unreadable) {
  const auto names = names_in(folder);
  if (!names) return names.error();
  std::vector<Finished> all;
  const auto add_unreadable = [&](const std::string& name, const json& error) {
    if (unreadable != nullptr) unreadable->push_back({{"file", path(folder, name)}, {"error", error}});
  };
  for (auto name = names->rbegin(); name != names->rend() && all.size() < limit; ++name) {
    const auto text = system_.read_trusted_file(path(folder, *name), kMaxFinishedBytes);
    if (name->starts_with(kBad)) {
      if (ends_with_suffix(*name)) {
        const auto reason = text ? json::parse(*text, nullptr, false) : json();
        if (reason.is_object()) add_unreadable(name->substr(0, name->size() - 5), reason.value("error", json()));
      } else if (!std::binary_search(names->begin(), names->end(), *name + kSuffix)) {
        add_unreadable(*name, nullptr);  // the worker died before it could write down why
      }
      continue;
    }
    if (!text) {
      if (text.error().code != ErrorCode::not_found) add_unreadable(*name, error_json(text.error()));
      continue;
    }
    auto finished = name->starts_with(kRemoved) ? parse_removed(*text) : parse_finished(*text);
    if (!finished) {
      add_unreadable(*name, error_json(finished.error()));
      continue;
    }
    all.push_back(std::move(*finished));
  }
  return all;
}

Result<std::optional<Finished>> Spool::finished(const SpoolRequest& request) {
  const auto removed = kRemoved + request.id + kSuffix;
  for (const auto& [folder, name] :
       {std::pair{kDone, finished_name(request)}, {kFailed, finished_name(request)}, {kFailed, removed}}) {
    const auto text = system_.read_trusted_file(path(folder, name), kMaxFinishedBytes);
    if (!text && text.error().code == ErrorCode::not_found) continue;
    if (!text) return text.error();
    auto parsed = name == removed ? parse_removed(*text) : parse_finished(*text);
    if (!parsed) return parsed.error();
    return std::optional(std::move(*parsed));
  }
  return std::optional<Finished>();
}

Result<std::vector<Finished>> Spool::done(std::size_t limit) { return finished_in(kDone, limit, nullptr); }

Result<std::vector<Finished>> Spool::failed(std::size_t limit, json* unreadable) {
  return finished_in(kFailed, limit, unreadable);
}

Result<std::unique_ptr<FileLock>> Spool::lock_worker() { return system_.lock_file(dir_ + "/.worker.lock"); }

Result<std::vector<std::string>> Spool::put_away_bad() {
  std::vector<std::string> reasons;
  for (const auto* folder : {kQueue, kRunning}) {
    const auto names = system_.list_folder(fmt::format("{}/{}", dir_, folder));
    if (!names) return names.error();
    for (const auto& name : *names) {
      const auto request = read_request(path(folder, name));
      if (request || !is_bad_file(request.error())) continue;
      const auto bad = kBad + system_.random_id();
      POOLSHIFT_TRY(system_.move_file(path(folder, name), path(kFailed, bad)));
      const json reason = {{"schema", 1}, {"file", name}, {"error", error_json(request.error())}};
      POOLSHIFT_TRY(system_.create_file(path(kFailed, bad + kSuffix), text_of(reason) + "\n"));
      reasons.push_back(fmt::format("'{}' is no request ({}); it is '{}' now", path(folder, name),
                                    request.error().message, path(kFailed, bad)));
    }
  }
  return reasons;
}

Status Spool::claim(const SpoolRequest& request) {
  return system_.move_file(path_of(kQueue, request), path_of(kRunning, request));
}

Status Spool::put_back(const SpoolRequest& request) {
  return system_.move_file(path_of(kRunning, request), path_of(kQueue, request));
}

Status Spool::set_retry(const std::string& id, const Retry& retry) {
  json out = {{"schema", 1},
              {"attempts", retry.attempts},
              {"not_before_ms", static_cast<std::uint64_t>(std::max<std::int64_t>(retry.not_before_ms, 0))}};
  if (!retry.error.is_null()) out["error"] = retry.error;
  return system_.replace_file(path(kRetry, id + kSuffix), text_of(out) + "\n");
}

Status Spool::finish(const Finished& finished) {
  const auto* folder = finished.outcome == "done" ? kDone : kFailed;
  const auto created =
      system_.create_file(path(folder, finished_name(finished.request)), text_of(to_json(finished)) + "\n");
  if (!created && created.error().code != ErrorCode::exists) return created;
  return leave_running(finished.request);
}

// In this order: as long as it is in running/, somebody will look whether all was done.
Status Spool::leave_running(const SpoolRequest& request) {
  POOLSHIFT_TRY(system_.remove_file(path(kRetry, request.id + kSuffix)));
  return system_.remove_file(path_of(kRunning, request));
}

Result<bool> Spool::finish_begun(const SpoolRequest& request) {
  for (const auto* folder : {kDone, kFailed}) {
    const auto there = system_.file_bytes(path(folder, finished_name(request)));
    if (!there && there.error().code != ErrorCode::not_found) return there.error();
    if (!there) continue;
    POOLSHIFT_TRY(leave_running(request));
    return true;
  }
  return false;
}

Status Spool::remove(const std::string& id) {
  const Error none_waits{ErrorCode::not_found, fmt::format("no request '{}' waits in '{}'", id, dir_),
                         "See 'poolshift queue'; one that runs is stopped with 'poolshift cancel JOB'."};
  const auto requests = waiting();
  if (!requests) return requests.error();
  const auto found =
      std::find_if(requests->begin(), requests->end(), [&](const SpoolRequest& each) { return each.id == id; });
  if (found == requests->end()) return none_waits;
  const auto moved = system_.move_file(path_of(kQueue, *found), path(kFailed, kRemoved + id + kSuffix));
  if (!moved && moved.error().code == ErrorCode::not_found) return none_waits;  // the worker was faster
  if (!moved) return moved;
  return system_.remove_file(path(kRetry, id + kSuffix));
}

Result<std::string> Spool::retry(const std::string& id) {
  const auto all = failed(SIZE_MAX, nullptr);
  if (!all) return all.error();
  const auto found =
      std::find_if(all->begin(), all->end(), [&](const Finished& each) { return each.request.id == id; });
  if (found == all->end()) {
    return Error{ErrorCode::not_found, fmt::format("no failed request '{}' is in '{}'", id, dir_),
                 "See 'poolshift queue'."};
  }
  auto request = found->request;
  request.id.clear();
  request.created_ms = 0;
  return submit(std::move(request));
}

}  // namespace poolshift
