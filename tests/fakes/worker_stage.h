// A spool, a worker and its fake jobs, for the tests of the worker.
#pragma once

#include <string>
#include <vector>

#include "fakes/fake_runner.h"

namespace poolshift::fakes {

inline SpoolRequest spool_request(const std::string& disk, const std::string& policy = "") {
  SpoolRequest request;
  request.origin = policy.empty() ? Origin::operator_ : Origin::policy;
  request.policy = policy;
  request.domain_uuid = "12345678-1234-1234-1234-123456789abc";
  request.domain_name = "web";
  request.disk = disk;
  request.source = {"volumes-hdd", "", disk};
  request.swap = {{"target", "volumes-ssd/" + disk}, {"create", true}};
  return request;
}

struct WorkerStage {
  // Deletes the worker as the death of its process would: only the locks go.
  void die() {
    worker.reset();
    lock.reset();
    runner.reset();
    spool.reset();
    system.reset();
    jobs.process_dies();
    world.process_dies();
  }

  // A process of `poolshift worker`. Throws Crash.
  Status start_worker() {
    system = world.system();
    spool = std::make_unique<Spool>(*system, "/state");
    runner = jobs.runner();
    auto locked = spool->lock_worker();
    if (!locked) return locked.error();
    lock = std::move(*locked);
    Worker::Options options;
    options.limits = limits;
    options.minute_of_day = [this](std::int64_t) { return minute_of_day; };
    options.say = [this](const std::string& text) { said.push_back(text); };
    worker = std::make_unique<Worker>(*system, *spool, *runner, options);
    return worker->take_up();
  }

  // Steps until nothing is left but what is held; how many were made.
  Result<int> run(int most_steps = 5'000) {
    for (int steps = 1; steps <= most_steps; ++steps) {
      const auto outlook = worker->step();
      if (!outlook) return outlook.error();
      bool taken_up_later = false;
      for (const auto& each : worker->running()) taken_up_later = taken_up_later || each.take_up_ms >= 0;
      if (outlook->running == 0 && outlook->waiting == 0 && !taken_up_later) return steps;
      world.advance(1'000);
    }
    return Error{ErrorCode::failed, "the worker comes to no end", ""};
  }

  Spool looker() { return {*looking, "/state"}; }

  FakeWorld world;
  FakeJobs jobs{world};
  WorkerLimits limits;
  int minute_of_day = 12 * 60;
  std::vector<std::string> said;
  std::unique_ptr<System> looking = world.system();
  std::unique_ptr<System> system;
  std::unique_ptr<Spool> spool;
  std::unique_ptr<SwapRunner> runner;
  std::unique_ptr<FileLock> lock;
  std::unique_ptr<Worker> worker;
};

}  // namespace poolshift::fakes
