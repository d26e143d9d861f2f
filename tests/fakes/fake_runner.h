// libpoolshift as the worker sees it, without swaps: jobs whose journals live on when the process dies, and disks that
// know how often they were moved. Every call may be the one at which the world's process dies.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fakes/fake_world.h"
#include "spool/worker.h"

namespace poolshift::fakes {

// How an attempt at a swap ends. The default: done.
struct FakeEnd {
  int result = 0;  // enum poolshift_result
  std::string code;
  std::string refused_check = {};
  std::string guest_on = "source";
};

class FakeJobs {
 public:
  explicit FakeJobs(FakeWorld& world) : world_(world) {}

  struct Job {
    std::string id;
    nlohmann::json request;
    std::string state = "open";  // done, undone, cancelled, held
    bool running = true;
    bool has_journal = false;
    bool cancel = false;
    int looks_left = 0;  // until it ends
    std::uint64_t bandwidth_bytes_per_s = 0;
    FakeEnd end;
  };

  std::unique_ptr<SwapRunner> runner();
  // The threads of the process are gone, and what had no journal.
  void process_dies();
  nlohmann::json shown(const Job& job) const;
  Job* find(const std::string& id);
  std::string image_of(const nlohmann::json& swap_request);  // of the disk

  std::vector<std::unique_ptr<Job>> jobs;
  std::map<std::string, std::deque<FakeEnd>> ends;  // by disk: of its attempts
  std::map<std::string, std::string> images;        // by disk: where it is, when it was moved
  std::map<std::string, int> moves;                 // by disk
  std::map<std::string, int> begun;                 // by disk: jobs that got a journal
  int looks_per_job = 3;
  std::size_t most_at_once = 0;
  FakeWorld& world_;
};

}  // namespace poolshift::fakes
