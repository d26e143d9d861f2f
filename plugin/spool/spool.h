// The spool: STATE_DIR/spool, where requests wait for the worker.
//
//   queue/UUID.DISK.json        asked for; whoever may write here may ask
//   running/UUID.DISK.json      the worker has taken it; its job, if there is one, has the request's id as a label
//   retry/ID.json               how often it was tried, and when it may be tried again; may be lost
//   done/CREATED_MS-ID.json     the request and its report
//   failed/CREATED_MS-ID.json   the same, with the reason
//   failed/bad-ID               a file from the queue that is no request, as it was; the reason is in bad-ID.json
//
//   submit ──► queue ──claim──► running ──finish──► done | failed
//                ▲                 │
//                └────put_back─────┘
//
// Each arrow is one rename, or a file that is made durable before the other is removed: whoever dies in between, the
// request is in at least one folder, and the journals say whether anything was begun for it. Only a worker claims,
// finishes and puts back; of these there is one, by lock_worker().
//
// Files are opened without following links, are regular, at most kMaxSpoolRequestBytes long, and written by root, by
// this user or by the folder's group (System::read_trusted_file).
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "ports/system.h"
#include "spool/spool_request.h"

namespace poolshift {

struct Retry {
  unsigned attempts = 0;           // that have failed
  std::int64_t not_before_ms = 0;  // since the epoch
  nlohmann::json error;            // of the last attempt: code, message, advice; null: none
};

// What is in done/ or failed/.
struct Finished {
  SpoolRequest request;
  std::int64_t finished_ms = 0;
  std::string outcome;    // "done", "failed", "refused", "undone", "cancelled", "removed"
  unsigned attempts = 0;  // that were made
  nlohmann::json report;  // of the last attempt's swap; null: none
  nlohmann::json error;   // null: none
};

class Spool {
 public:
  Spool(System& system, const std::string& state_dir) : system_(system), dir_(state_dir + "/spool") {}

  // Makes the folders. Whoever submits needs not call it.
  Status open();

  // Gives the request an id and the time when it has none, and makes it durable; returns the id. `exists`: a request
  // for the same disk waits or runs. `invalid`: it would not pass parse_spool_request().
  Result<std::string> submit(SpoolRequest request);

  // --- for whoever looks
  // In the order in which they were asked for. A file that is no request is passed over (`any_bad` tells, where it is
  // given), one that has just gone too.
  Result<std::vector<SpoolRequest>> waiting(bool* any_bad = nullptr);
  Result<std::vector<SpoolRequest>> running();
  Result<Retry> retry_of(const std::string& id);
  // How many there are, by the names of files alone; failed ones as long as they are kept. A spool that was never made
  // has none.
  struct Counts {
    std::size_t waiting = 0, running = 0, failed = 0;
  };
  Result<Counts> counts();
  // How a request has ended; empty: it has not.
  Result<std::optional<Finished>> finished(const SpoolRequest& request);
  // The newest first, at most `limit`. What cannot be read is an entry in `unreadable` ("file", "error").
  Result<std::vector<Finished>> done(std::size_t limit);
  Result<std::vector<Finished>> failed(std::size_t limit, nlohmann::json* unreadable);

  // --- for the one worker
  // `busy`: another worker runs. Held until destroyed.
  Result<std::unique_ptr<FileLock>> lock_worker();
  // Files in the queue that are no requests go to failed/, with the reason; one of them returns an entry as `failed`.
  Result<std::vector<std::string>> put_away_bad();
  // `not_found`: somebody removed it. `exists`: one for the same disk runs.
  Status claim(const SpoolRequest& request);
  // Waits again. `exists`: by now another request for the same disk waits.
  Status put_back(const SpoolRequest& request);
  Status set_retry(const std::string& id, const Retry& retry);
  // To done/ when the outcome is "done", else to failed/.
  Status finish(const Finished& finished);
  // For a request that is in running/: whether somebody died while it was finished. Then that is done now.
  Result<bool> finish_begun(const SpoolRequest& request);

  // --- for operators
  // A waiting request goes to failed/ as "removed". `not_found`: none waits by this id.
  Status remove(const std::string& id);
  // Asks again for a failed one, under a new id, which it returns. `not_found`, `exists`.
  Result<std::string> retry(const std::string& id);

  // Of the state folder, for messages.
  const std::string& folder() const { return dir_; }

 private:
  std::string path(const char* folder, const std::string& name) const;
  Result<std::vector<std::string>> names_in(const char* folder);
  std::string path_of(const char* folder, const SpoolRequest& request) const;
  Result<std::vector<SpoolRequest>> requests_in(const char* folder, bool* any_bad = nullptr);
  Result<SpoolRequest> read_request(const std::string& path);
  Status leave_running(const SpoolRequest& request);
  Result<std::vector<Finished>> finished_in(const char* folder, std::size_t limit, nlohmann::json* unreadable);

  System& system_;
  std::string dir_;
};

}  // namespace poolshift
