// The spool's crash sweep: the worker is stopped at every single call to a file or to the library, and started again;
// then nothing was done twice and nothing is forgotten.
#include <catch2/catch.hpp>
#include <map>

#include "fakes/worker_stage.h"
#include "include/poolshift.h"

namespace poolshift {

using fakes::Crash;
using fakes::FakeWorld;
using fakes::WorkerStage;

namespace {

// Every way in which a request may go, by its disk.
struct Wanted {
  const char* disk;
  std::vector<fakes::FakeEnd> ends;
  const char* outcome;
  int moves;
};

const Wanted kWanted[] = {
    {"vda", {}, "done", 1},
    {"vdb", {{POOLSHIFT_UNDONE, "failed"}, {POOLSHIFT_UNDONE, "failed"}}, "done", 1},
    {"vdc", {{POOLSHIFT_REFUSED, "refused", "shareable"}}, "refused", 0},
    {"vdd", {{POOLSHIFT_REFUSED, "unreachable"}, {POOLSHIFT_REFUSED, "refused", "health"}}, "done", 1},
    {"vde", {{POOLSHIFT_HELD, "failed", "", "target"}}, "done", 1},
    {"vdf", {{POOLSHIFT_CANCELLED, "cancelled"}}, "cancelled", 0},
};

void set_up(WorkerStage& stage) {
  for (const auto& wanted : kWanted) {
    stage.jobs.ends[wanted.disk] = {wanted.ends.begin(), wanted.ends.end()};
    auto submitted = stage.looker().submit(fakes::spool_request(wanted.disk));
    REQUIRE(submitted);
  }
  REQUIRE(stage.looking->create_file("/state/spool/queue/rubbish", "no request"));
}

void work(WorkerStage& stage) {
  const auto started = stage.start_worker();
  REQUIRE(started);
  const auto ran = stage.run();  // outside REQUIRE, which would catch a Crash
  if (!ran) FAIL(ran.error().message);
}

void check_ended(WorkerStage& stage) {
  auto spool = stage.looker();
  CHECK(spool.waiting()->empty());
  CHECK(spool.running()->empty());
  std::map<std::string, std::vector<std::string>> outcomes;
  nlohmann::json unreadable = nlohmann::json::array();
  const auto done = spool.done(100);
  const auto failed = spool.failed(100, &unreadable);
  REQUIRE(done);
  REQUIRE(failed);
  for (const auto& each : *done) outcomes[each.request.disk].push_back(each.outcome);
  for (const auto& each : *failed) outcomes[each.request.disk].push_back(each.outcome);
  for (const auto& wanted : kWanted) {
    INFO("disk " << wanted.disk);
    CHECK(outcomes[wanted.disk] == std::vector<std::string>{wanted.outcome});
    CHECK(stage.jobs.moves[wanted.disk] == wanted.moves);
    // As many jobs as attempts that came so far: none is begun twice.
    std::size_t attempts = wanted.moves == 0 ? 0 : 1;
    for (const auto& end : wanted.ends) {
      attempts += end.result == POOLSHIFT_UNDONE || end.result == POOLSHIFT_CANCELLED ? 1 : 0;
    }
    CHECK(stage.jobs.begun[wanted.disk] == static_cast<int>(attempts));
  }
  CHECK(unreadable.size() == 1);
  for (const auto& [path, file] : stage.world.files) CHECK_FALSE(path.starts_with("/state/spool/retry/"));
  CHECK(stage.jobs.most_at_once <= stage.limits.parallel);
}

std::uint64_t calls_of_a_whole_run() {
  WorkerStage stage;
  set_up(stage);
  const auto before = stage.world.calls();
  work(stage);
  check_ended(stage);
  return stage.world.calls() - before;
}

template <class Death>
void sweep(Death death, std::uint64_t every) {
  const auto calls = calls_of_a_whole_run();
  REQUIRE(calls > 100);
  for (std::uint64_t number = 1; number <= calls; number += every) {
    for (const auto when : {FakeWorld::CrashWhen::before, FakeWorld::CrashWhen::after, FakeWorld::CrashWhen::torn}) {
      INFO("dies at call " << number << " of " << calls << ", " << static_cast<int>(when));
      WorkerStage stage;
      set_up(stage);
      stage.world.crash_at(stage.world.calls() + number, when);
      try {
        work(stage);
      } catch (const Crash&) {
        stage.die();
        death(stage);
      }
      stage.world.crash_at(0, FakeWorld::CrashWhen::before);
      stage.die();
      work(stage);
      check_ended(stage);
    }
  }
}

}  // namespace

TEST_CASE("requests that nobody disturbs end as they should") { CHECK(calls_of_a_whole_run() > 100); }

TEST_CASE("the worker dies at any call: nothing is done twice, nothing is forgotten") {
  sweep([](WorkerStage&) {}, 1);
}

TEST_CASE("the worker dies at any call, and the next one as well") {
  std::uint64_t second = 1;
  sweep(
      [&](WorkerStage& stage) {
        second = second % 97 + 1;
        stage.world.crash_at(stage.world.calls() + second, FakeWorld::CrashWhen::after);
        try {
          work(stage);
        } catch (const Crash&) {
        }
        stage.world.crash_at(0, FakeWorld::CrashWhen::before);
        stage.die();
      },
      1);
}

TEST_CASE("whoever submits dies at any call: the request is there whole, or not at all") {
  for (std::uint64_t number = 1; number <= 4; ++number) {
    for (const auto when : {FakeWorld::CrashWhen::before, FakeWorld::CrashWhen::after, FakeWorld::CrashWhen::torn}) {
      WorkerStage stage;
      stage.world.crash_at(number, when);
      bool submitted = true;
      try {
        submitted = stage.looker().submit(fakes::spool_request("vda")).ok();
      } catch (const Crash&) {
        submitted = false;
      }
      stage.world.crash_at(0, FakeWorld::CrashWhen::before);
      stage.die();
      work(stage);
      const auto moved = stage.jobs.moves["vda"];
      CHECK(moved <= 1);
      if (submitted) CHECK(moved == 1);
      CHECK(stage.looker().done(10)->size() == static_cast<std::size_t>(moved));
    }
  }
}

}  // namespace poolshift
