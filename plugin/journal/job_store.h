// The state folder: STATE_DIR/jobs/<id>.journal is the truth about a job, <id>.control what people asked of it,
// <id>.progress how far it is. Whoever holds the lock of the journal runs the job; there is at most one.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/job_record.h"
#include "ports/system.h"

namespace poolshift {

struct Progress {
  std::string step;  // for people: "zeroing the target", "copying"
  std::uint64_t done_bytes = 0;
  std::uint64_t total_bytes = 0;
  std::uint64_t bytes_per_s = 0;
  std::int64_t left_s = -1;  // -1: not known
};

// What people asked of a job. Absent: nothing.
struct JobControl {
  bool cancel = false;
  std::optional<std::uint64_t> bandwidth_bytes_per_s;
};

// Appends to one journal while its lock is held.
class JournalWriter {
 public:
  // `intact_bytes`: how long the journal is now.
  JournalWriter(System& system, std::string path, std::unique_ptr<FileLock> lock, std::uint64_t intact_bytes)
      : system_(&system), path_(std::move(path)), lock_(std::move(lock)), intact_bytes_(intact_bytes) {}

  // After an error the record is not in the journal, or may not survive a crash. The next call cuts off what the failed
  // one has left: a torn line in the middle would make the whole journal unreadable.
  Status append(const JobRecord& record);

 private:
  System* system_;
  std::string path_;
  std::unique_ptr<FileLock> lock_;
  std::uint64_t intact_bytes_;
  bool has_failed_ = false;
};

class JobStore {
 public:
  // `overlay_dir`: empty is the state folder's "overlays".
  JobStore(System& system, const std::string& state_dir, const std::string& overlay_dir = "")
      : system_(system),
        jobs_dir_(state_dir + "/jobs"),
        overlay_dir_(overlay_dir.empty() ? state_dir + "/overlays" : overlay_dir) {}

  // The only place that an overlay's path comes from: one in a journal is never used.
  std::string overlay_path_of(const std::string& job_id) const;

  Status open();  // makes the folders

  // A new journal with its first record. `busy` when an open job has the same disk or one of the same images.
  Result<JournalWriter> create(const JobRecord& record);

  struct Opened {
    JournalWriter journal;
    JobRecord record;
  };
  // For the one who is going to run it. `busy` when another process runs it; `denied` when the journal is another
  // user's, or names another overlay than this store does.
  Result<Opened> open_job(const std::string& job_id);

  struct Seen {
    JobRecord record;
    bool running = false;
    std::optional<Progress> progress;
  };
  // For those who look. `not_found`, `damaged`.
  Result<Seen> look_at(const std::string& job_id);
  // Oldest first.
  Result<std::vector<std::string>> job_ids();
  // For the qemu hook, which must not wait, writes nothing and passes by many ended jobs: the newest whole record, read
  // from the end of the journal. Nothing when that record has none of `words` in its text.
  Result<std::optional<JobRecord>> newest_record_with(const std::string& job_id, const std::vector<std::string>& words);

  // Ok, or `busy`: which open job stands in the way of a swap of this disk between these images.
  Status check_free(const std::string& domain_uuid, const std::string& disk, const ImageName& source,
                    const ImageName& target);

  Result<JobControl> control(const std::string& job_id);
  Status change_control(const std::string& job_id, const JobControl& wanted);
  // For a job that is taken up again: what was asked of it before it stopped has been done.
  Status forget_cancel(const std::string& job_id);
  // Held while a guest is suspended: of the jobs of this folder one at a time. `busy`.
  Result<std::unique_ptr<FileLock>> lock_pause();
  void show_progress(const std::string& job_id, const Progress& progress);
  // Removes what only a running job needs.
  void drop_volatile(const std::string& job_id);

 private:
  std::string path_of(const std::string& job_id, const char* suffix) const;
  Result<std::unique_ptr<FileLock>> lock_folder();
  Result<JobRecord> read_record(const std::string& job_id);
  Result<JobRecord> read_own_record(const std::string& job_id, std::uint64_t& intact_bytes);
  Result<JobRecord> record_in(const std::string& job_id, const Result<std::string>& content,
                              std::uint64_t* intact_bytes);

  System& system_;
  std::string jobs_dir_;
  std::string overlay_dir_;
};

bool is_job_id(const std::string& text);

}  // namespace poolshift
