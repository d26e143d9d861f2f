#include "journal/job_store.h"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "journal/journal.h"

namespace poolshift {

using nlohmann::json;

namespace {

constexpr std::uint64_t kMaxSideFileBytes = 64 * 1024;
constexpr std::uint64_t kMostRecordsBytes = 16 * 1024;  // what nearly all records are shorter than
// What a job may still write when the file system is full: some fifty records.
constexpr std::uint64_t kReservedBytes = 256 * 1024;
constexpr std::int64_t kLockPatienceMs = 10'000;
constexpr std::int64_t kLockRetryMs = 20;
constexpr const char* kJournal = ".journal";
constexpr const char* kControl = ".control";
constexpr const char* kProgress = ".progress";

std::string framed(const JobRecord& record) {
  json out;
  to_json(out, record);
  // Image metadata may hold any bytes; a journal line is always UTF-8.
  return frame_record(out.dump(-1, ' ', false, json::error_handler_t::replace));
}

template <class T>
std::optional<T> member(const json& object, const char* key) {
  const auto entry = object.is_object() ? object.find(key) : object.end();
  if (entry == object.end()) return std::nullopt;
  if constexpr (std::is_same_v<T, bool>) {
    if (!entry->is_boolean()) return std::nullopt;
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (!entry->is_string()) return std::nullopt;
  } else {
    if (!entry->is_number_integer()) return std::nullopt;
  }
  return entry->template get<T>();
}

}  // namespace

bool is_job_id(const std::string& text) {
  return text.size() == 12 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

Status JournalWriter::append(const JobRecord& record) {
  if (has_failed_) POOLSHIFT_TRY(system_->truncate_file(path_, intact_bytes_));
  const auto line = framed(record);
  const auto status = system_->append_file(path_, line);
  has_failed_ = !status;
  if (status) intact_bytes_ += line.size();
  if (status && has_ended(record.phase)) (void)system_->release_space(path_);
  return status;
}

std::string JobStore::overlay_path_of(const std::string& job_id) const {
  return fmt::format("{}/{}.qcow2", overlay_dir_, job_id);
}

std::string JobStore::path_of(const std::string& job_id, const char* suffix) const {
  return fmt::format("{}/{}{}", jobs_dir_, job_id, suffix);
}

Status JobStore::open() {
  // What others must reach lies beside the jobs (host.h: overlay_dir); whether they can is validation's business.
  (void)system_.make_passable_folder(jobs_dir_.substr(0, jobs_dir_.rfind('/')));
  return system_.make_folder(jobs_dir_);
}

Result<std::unique_ptr<FileLock>> JobStore::lock_folder() {
  const auto deadline_ms = system_.monotonic_ms() + kLockPatienceMs;
  for (;;) {
    auto lock = system_.lock_file(jobs_dir_ + "/.lock");
    if (lock || lock.error().code != ErrorCode::busy || system_.monotonic_ms() >= deadline_ms) return lock;
    system_.sleep_ms(kLockRetryMs);
  }
}

// Any journal in the folder may be looked at: what it says is shown, and stands in the way of others.
Result<JobRecord> JobStore::read_record(const std::string& job_id) {
  auto content = system_.read_end_of_file(path_of(job_id, kJournal), kMaxJournalBytes + 1);
  if (content && content->size() > kMaxJournalBytes) {
    content = Error{ErrorCode::damaged,
                    fmt::format("the journal of job '{}' is longer than {} bytes", job_id, kMaxJournalBytes),
                    "This is not a file that PoolShift wrote: move it away."};
  }
  return record_in(job_id, content, nullptr);
}

// What is acted on. A journal that another user can have written would make us act for that user with our rights.
Result<JobRecord> JobStore::read_own_record(const std::string& job_id, std::uint64_t& intact_bytes) {
  const auto content = system_.read_own_file(path_of(job_id, kJournal), kMaxJournalBytes);
  if (!content && content.error().code == ErrorCode::denied) {
    auto error = content.error();
    error.message = fmt::format("job '{}' is not taken up: {}", job_id, error.message);
    return error;
  }
  auto record = record_in(job_id, content, &intact_bytes);
  if (!record || record->engine != kHandover || record->offline) {
    if (record) record->overlay_path.clear();
    return record;
  }
  const auto ours = overlay_path_of(job_id);
  if (!record->overlay_path.empty() && record->overlay_path != ours) {
    return Error{ErrorCode::denied,
                 fmt::format("job '{}' is not taken up: its journal names the overlay '{}', and this is not '{}'",
                             job_id, record->overlay_path, ours),
                 "Give the --overlay-dir that the job was begun with."};
  }
  record->overlay_path = ours;
  return record;
}

Result<JobRecord> JobStore::record_in(const std::string& job_id, const Result<std::string>& content,
                                      std::uint64_t* intact_bytes) {
  const Error no_such_job{ErrorCode::not_found, fmt::format("there is no job '{}' in '{}'", job_id, jobs_dir_),
                          "List the jobs with 'poolshift status'."};
  if (!is_job_id(job_id)) return no_such_job;
  if (!content) return content.error().code == ErrorCode::not_found ? no_such_job : content.error();
  const auto name_file = [&](Error error) {
    error.message = fmt::format("job '{}': {}", job_id, error.message);
    return error;
  };
  const auto replay = replay_journal(*content);
  if (!replay) return name_file(replay.error());
  auto record = record_from_json(json::parse(replay->last_record, nullptr, false));
  if (!record) return name_file(record.error());
  if (record->job_id != job_id) {
    return Error{ErrorCode::damaged, fmt::format("the journal of job '{}' is that of job '{}'", job_id, record->job_id),
                 "Keep both files; one was renamed or copied."};
  }
  if (intact_bytes != nullptr) *intact_bytes = replay->intact_bytes;
  return record;
}

// The last line that is whole, with its line break; empty when `end` does not have all of one.
static std::string_view last_line(std::string_view end, bool begins_with_a_line) {
  const auto stop = end.rfind('\n');
  if (stop == std::string_view::npos) return {};
  const auto before = stop == 0 ? std::string_view::npos : end.rfind('\n', stop - 1);
  if (before == std::string_view::npos) return begins_with_a_line ? end.substr(0, stop + 1) : std::string_view();
  return end.substr(before + 1, stop - before);
}

Result<std::optional<JobRecord>> JobStore::newest_record_with(const std::string& job_id,
                                                              const std::vector<std::string>& words) {
  std::string end;
  std::string_view line;
  for (std::uint64_t limit_bytes = kMostRecordsBytes; line.empty(); limit_bytes *= 8) {
    auto read = system_.read_end_of_file(path_of(job_id, kJournal), limit_bytes);
    if (!read) return read.error();
    end = std::move(*read);
    const bool all = end.size() < limit_bytes;
    line = last_line(end, all);
    if (all || limit_bytes >= kMaxJournalBytes) break;
  }
  const auto has = [&](const std::string& word) { return line.find(word) != std::string_view::npos; };
  if (!line.empty() && std::none_of(words.begin(), words.end(), has)) return std::optional<JobRecord>();
  const auto replay = replay_journal(line);
  auto record =
      replay ? record_from_json(json::parse(replay->last_record, nullptr, false)) : Result<JobRecord>(replay.error());
  if (record) return std::optional<JobRecord>(std::move(*record));
  auto error = record.error();
  error.message = fmt::format("job '{}', its newest record: {}", job_id, error.message);
  return error;
}

Result<std::vector<std::string>> JobStore::job_ids() {
  auto names = system_.list_folder(jobs_dir_);
  if (!names) return names.error();
  std::vector<std::string> ids;
  for (const auto& name : *names) {
    const auto dot = name.find('.');
    if (dot != std::string::npos && name.substr(dot) == kJournal && is_job_id(name.substr(0, dot))) {
      ids.push_back(name.substr(0, dot));
    }
  }
  return ids;
}

Status JobStore::check_free(const std::string& domain_uuid, const std::string& disk, const ImageName& source,
                            const ImageName& target) {
  auto ids = job_ids();
  if (!ids) return ids.error();
  for (const auto& id : *ids) {
    const auto record = read_record(id);
    if (!record && record.error().code == ErrorCode::not_found) continue;
    if (!record) return record.error();  // it may be about this disk: nothing is started beside it
    if (has_ended(record->phase)) continue;
    const bool same_disk = record->domain_uuid == domain_uuid && record->disk == disk;
    const auto touches = [&](const ImageName& image) { return record->source == image || record->target == image; };
    if (same_disk || touches(source) || touches(target)) {
      return Error{
          ErrorCode::busy,
          fmt::format("job '{}' (domain '{}', disk '{}', {} to {}) is open in phase '{}'", id, record->domain_name,
                      record->disk, to_string(record->source), to_string(record->target), name_of(record->phase)),
          fmt::format("Wait for it, or run 'poolshift recover {}'.", id)};
    }
  }
  return {};
}

Result<JournalWriter> JobStore::create(const JobRecord& record) {
  const auto folder_lock = lock_folder();
  if (!folder_lock) return folder_lock.error();
  POOLSHIFT_TRY(check_free(record.domain_uuid, record.disk, record.source, record.target));
  const auto path = path_of(record.job_id, kJournal);
  const auto line = framed(record);
  POOLSHIFT_TRY(system_.create_file(path, line));
  auto lock = system_.lock_file(path);
  if (!lock) return lock.error();
  if (const auto reserved = system_.reserve_space(path, kReservedBytes); !reserved) {
    (void)system_.remove_file(path);  // nothing was begun
    return reserved.error();
  }
  return JournalWriter(system_, path, std::move(*lock), line.size());
}

Result<JobStore::Opened> JobStore::open_job(const std::string& job_id) {
  const auto folder_lock = lock_folder();
  if (!folder_lock) return folder_lock.error();
  std::uint64_t intact_bytes = 0;
  POOLSHIFT_TRY(read_own_record(job_id, intact_bytes));  // before the lock, which would create a missing file
  const auto path = path_of(job_id, kJournal);
  auto lock = system_.lock_file(path);
  if (!lock) return lock.error();
  auto record = read_own_record(job_id, intact_bytes);
  if (!record) return record.error();
  POOLSHIFT_TRY(system_.truncate_file(path, intact_bytes));  // a torn last line must not come to lie in the middle
  // Without room the job goes on for as long as the file system lets it.
  if (!has_ended(record->phase)) (void)system_.reserve_space(path, kReservedBytes);
  return Opened{JournalWriter(system_, path, std::move(*lock), intact_bytes), std::move(*record)};
}

Result<JobStore::Seen> JobStore::look_at(const std::string& job_id) {
  const auto folder_lock = lock_folder();  // so that the probe below never meets somebody who is taking the job up
  if (!folder_lock) return folder_lock.error();
  auto record = read_record(job_id);
  if (!record) return record.error();
  Seen seen{std::move(*record), false, std::nullopt};
  if (has_ended(seen.record.phase)) return seen;
  const auto locked = system_.is_locked(path_of(job_id, kJournal));
  if (!locked) return locked.error();
  seen.running = *locked;
  const auto text = system_.read_file(path_of(job_id, kProgress), kMaxSideFileBytes);
  if (!text) return seen;
  const auto shown = json::parse(*text, nullptr, false);
  const auto step = member<std::string>(shown, "step");
  if (!step) return seen;
  seen.progress = Progress{*step, member<std::uint64_t>(shown, "done_bytes").value_or(0),
                           member<std::uint64_t>(shown, "total_bytes").value_or(0),
                           member<std::uint64_t>(shown, "bytes_per_s").value_or(0),
                           member<std::int64_t>(shown, "left_s").value_or(-1)};
  return seen;
}

Result<JobControl> JobStore::control(const std::string& job_id) {
  const auto text = system_.read_file(path_of(job_id, kControl), kMaxSideFileBytes);
  if (!text && text.error().code == ErrorCode::not_found) return JobControl{};
  if (!text) return text.error();
  const auto object = json::parse(*text, nullptr, false);
  return JobControl{member<bool>(object, "cancel").value_or(false),
                    member<std::uint64_t>(object, "bandwidth_bytes_per_s")};
}

Status JobStore::change_control(const std::string& job_id, const JobControl& wanted) {
  const auto folder_lock = lock_folder();
  if (!folder_lock) return folder_lock.error();
  auto known = control(job_id);
  if (!known) return known.error();
  json object = {{"cancel", wanted.cancel || known->cancel}};
  const auto bandwidth = wanted.bandwidth_bytes_per_s ? wanted.bandwidth_bytes_per_s : known->bandwidth_bytes_per_s;
  if (bandwidth) object["bandwidth_bytes_per_s"] = *bandwidth;
  return system_.replace_file(path_of(job_id, kControl), object.dump());
}

Status JobStore::forget_cancel(const std::string& job_id) {
  const auto folder_lock = lock_folder();
  if (!folder_lock) return folder_lock.error();
  const auto known = control(job_id);
  if (!known) return known.error();
  if (!known->cancel) return {};
  json object = {{"cancel", false}};
  if (known->bandwidth_bytes_per_s) object["bandwidth_bytes_per_s"] = *known->bandwidth_bytes_per_s;
  return system_.replace_file(path_of(job_id, kControl), object.dump());
}

Result<std::unique_ptr<FileLock>> JobStore::lock_pause() { return system_.lock_file(jobs_dir_ + "/.pause.lock"); }

void JobStore::show_progress(const std::string& job_id, const Progress& progress) {
  const json object = {{"step", progress.step},
                       {"done_bytes", progress.done_bytes},
                       {"total_bytes", progress.total_bytes},
                       {"bytes_per_s", progress.bytes_per_s},
                       {"left_s", progress.left_s}};
  // Whoever looks sees an older state when this fails; the swap itself does not depend on it.
  (void)system_.replace_file(path_of(job_id, kProgress), object.dump());
}

void JobStore::drop_volatile(const std::string& job_id) {
  (void)system_.remove_file(path_of(job_id, kControl));
  (void)system_.remove_file(path_of(job_id, kProgress));
}

}  // namespace poolshift
