// What the worker starts when, what it makes of the end of a swap, and what it leaves to the next one.
#include <catch2/catch.hpp>

#include "fakes/worker_stage.h"
#include "include/poolshift.h"

namespace poolshift {

using fakes::spool_request;
using fakes::WorkerStage;
using nlohmann::json;

namespace {

std::vector<WaitingRequest> all_of(std::initializer_list<SpoolRequest> requests) {
  std::vector<WaitingRequest> waiting;
  for (const auto& request : requests) waiting.push_back({request, {}});
  return waiting;
}

json report_with(const std::string& code, const std::string& refused_check = "") {
  json report = {{"state", "held"}, {"job", "0123456789ab"}, {"guest_on", "target"}, {"checks", json::array()}};
  report["error"] = {{"code", code}, {"message", "m"}, {"advice", "a"}};
  if (!refused_check.empty()) report["checks"].push_back({{"name", refused_check}, {"result", "refuse"}});
  return report;
}

constexpr int kNoon = 12 * 60;

}  // namespace

TEST_CASE("schedule: in order, as many as are allowed") {
  const auto waiting = all_of({spool_request("vda"), spool_request("vdb"), spool_request("vdc")});
  CHECK(schedule(waiting, {}, 2, 0, kNoon) ==
        std::vector{WaitsFor::nothing, WaitsFor::nothing, WaitsFor::a_free_place});
  CHECK(schedule(waiting, {spool_request("vdx")}, 2, 0, kNoon) ==
        std::vector{WaitsFor::nothing, WaitsFor::a_free_place, WaitsFor::a_free_place});
  CHECK(schedule(waiting, {spool_request("vda")}, 9, 0, kNoon).front() == WaitsFor::a_free_place);
}

TEST_CASE("schedule: outside its window, before its time and beside others of its rule a request lets others pass") {
  auto night = spool_request("vda");
  night.window = *parse_window("22:00-06:00");
  const auto later = spool_request("vdb");
  auto waiting = all_of({night, later, spool_request("vdc")});
  waiting[1].retry.not_before_ms = 5'000;
  CHECK(schedule(waiting, {}, 1, 4'999, kNoon) ==
        std::vector{WaitsFor::its_window, WaitsFor::its_next_attempt, WaitsFor::nothing});
  CHECK(schedule(waiting, {}, 3, 5'000, 23 * 60) ==
        std::vector{WaitsFor::nothing, WaitsFor::nothing, WaitsFor::nothing});

  auto one = spool_request("vdd", "rule");
  auto two = spool_request("vde", "rule");
  one.at_most = two.at_most = 1;
  CHECK(schedule(all_of({one, two, spool_request("vdf", "another")}), {}, 9, 0, kNoon) ==
        std::vector{WaitsFor::nothing, WaitsFor::others_of_its_rule, WaitsFor::nothing});
  CHECK(schedule(all_of({two}), {one}, 9, 0, kNoon).front() == WaitsFor::others_of_its_rule);
}

TEST_CASE("bandwidth is shared out, and a request's own limit holds") {
  auto request = spool_request("vda");
  CHECK(bandwidth_share(request, 3, 0) == 0);
  CHECK(bandwidth_share(request, 3, 900) == 300);
  CHECK(bandwidth_share(request, 1, 900) == 900);
  CHECK(bandwidth_share(request, 2000, 900) == 1);  // 0 would be no limit
  request.swap["bandwidth_bytes_per_s"] = 200;
  CHECK(bandwidth_share(request, 3, 0) == 200);
  CHECK(bandwidth_share(request, 3, 900) == 200);
  CHECK(bandwidth_share(request, 9, 900) == 100);
}

TEST_CASE("what becomes of a request by the end of its swap") {
  CHECK(fate_of(POOLSHIFT_OK, {}) == Fate::done);
  CHECK(fate_of(POOLSHIFT_USAGE, report_with("invalid")) == Fate::fails);
  CHECK(fate_of(POOLSHIFT_CANCELLED, report_with("cancelled")) == Fate::fails);
  CHECK(fate_of(POOLSHIFT_REFUSED, report_with("unreachable")) == Fate::try_again);
  CHECK(fate_of(POOLSHIFT_REFUSED, report_with("busy")) == Fate::try_again);
  CHECK(fate_of(POOLSHIFT_REFUSED, report_with("refused")) == Fate::fails);
  for (const auto* check : {"health", "room", "target_pool_flags", "source_watchers", "open_jobs", "block_job"}) {
    CHECK(fate_of(POOLSHIFT_REFUSED, report_with("refused", check)) == Fate::try_again);
  }
  for (const auto* check : {"domain", "disk_source", "shareable", "target_empty", "target_pool"}) {
    CHECK(fate_of(POOLSHIFT_REFUSED, report_with("refused", check)) == Fate::fails);
  }
  auto mixed = report_with("refused", "room");
  mixed["checks"].push_back({{"name", "shareable"}, {"result", "refuse"}});
  CHECK(fate_of(POOLSHIFT_REFUSED, mixed) == Fate::fails);
  CHECK(fate_of(POOLSHIFT_UNDONE, report_with("failed")) == Fate::try_again);
  CHECK(fate_of(POOLSHIFT_UNDONE, report_with("denied")) == Fate::fails);
  CHECK(fate_of(POOLSHIFT_HELD, report_with("left")) == Fate::take_up);
  CHECK(fate_of(POOLSHIFT_HELD, report_with("failed")) == Fate::take_up);
  CHECK(fate_of(POOLSHIFT_HELD, report_with("cancelled")) == Fate::is_held);
  CHECK(fate_of(POOLSHIFT_INTERNAL, report_with("internal")) == Fate::is_held);
  auto unknown = report_with("failed");
  unknown["guest_on"] = "unknown";
  CHECK(fate_of(POOLSHIFT_HELD, unknown) == Fate::is_held);
  auto refused = report_with("damaged");
  refused["state"] = "refused";
  CHECK(fate_of(POOLSHIFT_HELD, refused) == Fate::try_again);
  CHECK(fate_of(POOLSHIFT_HELD, json()) == Fate::is_held);
}

TEST_CASE("the back-off doubles up to half an hour") {
  CHECK(back_off_ms(1) == 10'000);
  CHECK(back_off_ms(2) == 20'000);
  CHECK(back_off_ms(8) == 1'280'000);
  CHECK(back_off_ms(9) == 1'800'000);
  CHECK(back_off_ms(1'000'000) == 1'800'000);
}

TEST_CASE("the worker makes no more swaps at once than it may, and shares the bandwidth") {
  WorkerStage stage;
  stage.limits.parallel = 3;
  stage.limits.bandwidth_bytes_per_s = 900;
  for (const auto* disk : {"vda", "vdb", "vdc", "vdd"}) REQUIRE(stage.looker().submit(spool_request(disk)));
  REQUIRE(stage.start_worker());
  auto outlook = stage.worker->step();
  REQUIRE(outlook);
  CHECK(outlook->running == 3);
  CHECK(outlook->waiting == 1);
  CHECK(stage.worker->waits_for() == std::vector{WaitsFor::a_free_place});
  for (const auto& job : stage.jobs.jobs) CHECK(job->bandwidth_bytes_per_s == 300);
  REQUIRE(stage.run());
  CHECK(stage.jobs.most_at_once == 3);
  CHECK(stage.jobs.jobs.back()->bandwidth_bytes_per_s == 900);  // alone in the end
  CHECK(stage.looker().done(9)->size() == 4);
}

TEST_CASE("outside its window a request is not started; one that runs goes on") {
  WorkerStage stage;
  auto request = spool_request("vda");
  request.window = *parse_window("22:00-06:00");
  REQUIRE(stage.looker().submit(request));
  REQUIRE(stage.start_worker());
  CHECK(stage.worker->step()->running == 0);
  CHECK(stage.worker->waits_for() == std::vector{WaitsFor::its_window});
  stage.minute_of_day = 23 * 60;
  CHECK(stage.worker->step()->running == 1);
  stage.minute_of_day = kNoon;
  REQUIRE(stage.run());
  CHECK(stage.jobs.moves["vda"] == 1);
}

TEST_CASE("a request is tried again after its back-off, and given up after so many attempts") {
  WorkerStage stage;
  stage.limits.attempts = 3;
  for (int i = 0; i < 5; ++i) stage.jobs.ends["vda"].push_back({POOLSHIFT_UNDONE, "failed"});
  REQUIRE(stage.looker().submit(spool_request("vda")));
  REQUIRE(stage.start_worker());
  const auto began_ms = stage.world.now_ms;
  REQUIRE(stage.run());
  CHECK(stage.world.now_ms - began_ms >= 30'000);
  CHECK(stage.jobs.begun["vda"] == 3);
  const auto failed = stage.looker().failed(9, nullptr);
  REQUIRE(failed->size() == 1);
  CHECK(failed->front().outcome == "undone");
  CHECK(failed->front().attempts == 3);
  CHECK(failed->front().error["code"] == "failed");
}

TEST_CASE("a held swap that an operator must look at stays, and is done when somebody has recovered it") {
  WorkerStage stage;
  stage.jobs.ends["vda"].push_back({POOLSHIFT_HELD, "failed", "", "unknown"});
  REQUIRE(stage.looker().submit(spool_request("vda")));
  REQUIRE(stage.start_worker());
  REQUIRE(stage.run());
  CHECK(stage.looker().running()->size() == 1);
  REQUIRE(stage.worker->running().size() == 1);
  CHECK(stage.worker->running().front().job == nullptr);
  CHECK(stage.looker().submit(spool_request("vda")).error().code == ErrorCode::exists);
  stage.jobs.jobs.front()->state = "done";
  for (int i = 0; i < 5; ++i) {
    REQUIRE(stage.worker->step());
    stage.world.advance(1'000);
  }
  CHECK(stage.looker().running()->empty());
  CHECK(stage.looker().done(9)->size() == 1);
}

TEST_CASE("a worker that is ended leaves its swaps to the next one") {
  WorkerStage stage;
  stage.jobs.looks_per_job = 50;
  for (const auto* disk : {"vda", "vdb", "vdc"}) REQUIRE(stage.looker().submit(spool_request(disk)));
  REQUIRE(stage.start_worker());
  REQUIRE(stage.worker->step());
  REQUIRE(stage.worker->step());
  CHECK(stage.worker->leave());
  const auto outlook = stage.worker->step();
  REQUIRE(outlook);
  CHECK(outlook->running == 0);
  CHECK(outlook->held == 2);
  CHECK(outlook->waiting == 1);
  stage.die();
  stage.jobs.looks_per_job = 3;
  REQUIRE(stage.start_worker());
  REQUIRE(stage.run());
  CHECK(stage.looker().done(9)->size() == 3);
  CHECK(stage.jobs.jobs.size() == 3);
}

TEST_CASE("a worker does only what is its own") {
  WorkerStage stage;
  REQUIRE(stage.looker().submit(spool_request("vda", "rule")));
  REQUIRE(stage.looker().submit(spool_request("vdb")));
  REQUIRE(stage.start_worker());
  Worker::Options options;
  options.minute_of_day = [](std::int64_t) { return kNoon; };
  options.mine = [](const SpoolRequest& request) { return request.policy == "rule"; };
  Worker own(*stage.system, *stage.spool, *stage.runner, options);
  REQUIRE(own.take_up());
  for (int i = 0; i < 10; ++i) REQUIRE(own.step());
  CHECK(stage.jobs.moves["vda"] == 1);
  CHECK(stage.jobs.moves["vdb"] == 0);
  CHECK(stage.looker().waiting()->size() == 1);
}

TEST_CASE("a removed request is not started") {
  WorkerStage stage;
  REQUIRE(stage.start_worker());
  const auto id = stage.looker().submit(spool_request("vda"));
  REQUIRE(id);
  stage.worker->stop_starting();
  CHECK(stage.worker->step()->waiting == 1);
  REQUIRE(stage.looker().remove(*id));
  CHECK(stage.worker->step()->is_idle());
  CHECK(stage.jobs.jobs.empty());
}

}  // namespace poolshift
