// Which starts are refused: docs/adr/0010-which-starts-are-refused.md.
#include <fmt/core.h>

#include <catch2/catch.hpp>

#include "hook_fixture.h"
#include "verdict.h"

using namespace poolshift;
using namespace poolshift::hook;

namespace {

const ImageName kHdd{"hdd", "", "web"};
const ImageName kSsd{"ssd", "", "web"};

JobRecord job(Phase phase, const ImageName& source, const ImageName& target, std::int64_t changed_ms = 1) {
  JobRecord record;
  record.job_id = fmt::format("{:012x}", changed_ms);
  record.phase = phase;
  record.domain_uuid = kWebUuid;
  record.domain_name = "web";
  record.disk = "vda";
  record.source = source;
  record.target = target;
  record.source_access.mon_hosts = {"10.0.0.1:6789"};
  record.target_access = record.source_access;
  record.started_wall_ms = changed_ms;
  record.changed_wall_ms = changed_ms;
  return record;
}

std::vector<Objection> about(const std::vector<JobRecord>& jobs, const DomainDescription& domain = web()) {
  return objections(domain, jobs, "/state/jobs");
}

// One word for what is said of disk vda.
std::string word(const std::vector<JobRecord>& jobs, const DomainDescription& domain = web()) {
  const auto found = about(jobs, domain);
  if (found.empty()) return "good";
  REQUIRE(found.size() == 1);
  REQUIRE(found[0].disk == "vda");
  for (const auto& [part, name] : {std::pair{"out of date", "retired"},
                                   {"still filling", "unfinished"},
                                   {"not known yet", "unknown"},
                                   {"is held", "held"}}) {
    if (found[0].sentence.find(part) != std::string::npos) return name;
  }
  return found[0].sentence;
}

DomainDescription web_on(const ImageName& image) {
  auto domain = web();
  domain.disks[0].image = image;
  return domain;
}

}  // namespace

TEST_CASE("start: what each phase of the newest job says of its images", "[hook]") {
  struct Row {
    Phase phase;
    const char* on_source;
    const char* on_target;
  };
  const Row rows[] = {
      {Phase::prepare, "good", "unfinished"}, {Phase::copy, "good", "unfinished"},
      {Phase::pause, "good", "unfinished"},   {Phase::pivot, "unknown", "unknown"},
      {Phase::hydrate, "retired", "good"},    {Phase::retire, "retired", "good"},
      {Phase::done, "retired", "good"},       {Phase::undo, "good", "unfinished"},
      {Phase::undone, "good", "good"},        {Phase::held_on_source, "held", "held"},
      {Phase::held_unknown, "held", "held"},  {Phase::held_on_target, "held", "good"},
  };
  STATIC_REQUIRE(std::size(rows) == kPhaseCount);
  for (const auto& row : rows) {
    INFO(name_of(row.phase));
    CHECK(word({job(row.phase, kHdd, kSsd)}, web_on(kHdd)) == row.on_source);
    CHECK(word({job(row.phase, kHdd, kSsd)}, web_on(kSsd)) == row.on_target);
    CHECK(word({job(row.phase, kHdd, kSsd)}, web_on({"hdd", "", "another"})) == (is_held(row.phase) ? "held" : "good"));
  }
}

TEST_CASE("start: without a job every image is good", "[hook]") { CHECK(word({}) == "good"); }

TEST_CASE("start: there and back, the newest job decides", "[hook]") {
  const auto there = job(Phase::done, kHdd, kSsd, 1);
  const auto back = job(Phase::done, kSsd, kHdd, 2);
  const auto there_again = job(Phase::done, kHdd, kSsd, 3);
  CHECK(word({there, back}, web_on(kHdd)) == "good");
  CHECK(word({back, there}, web_on(kHdd)) == "good");
  CHECK(word({there, back}, web_on(kSsd)) == "retired");
  CHECK(word({there_again, there, back}, web_on(kHdd)) == "retired");
  CHECK(word({there_again, there, back}, web_on(kSsd)) == "good");
}

TEST_CASE("start: on from image to image, all that were left are out of date", "[hook]") {
  const ImageName third{"nvme", "", "web"};
  const std::vector<JobRecord> jobs = {job(Phase::done, kHdd, kSsd, 1), job(Phase::done, kSsd, third, 2)};
  CHECK(word(jobs, web_on(kHdd)) == "retired");
  CHECK(word(jobs, web_on(kSsd)) == "retired");
  CHECK(word(jobs, web_on(third)) == "good");
}

TEST_CASE("start: an undone job proves its source, and leaves its target as it was", "[hook]") {
  const auto there = job(Phase::done, kHdd, kSsd, 1);
  // The way back was undone: what is there is the old data still.
  CHECK(word({there, job(Phase::undone, kSsd, kHdd, 2)}, web_on(kHdd)) == "retired");
  // The guest was seen running on it since.
  CHECK(word({there, job(Phase::undone, kHdd, {"nvme", "", "web"}, 2)}, web_on(kHdd)) == "good");
}

TEST_CASE("start: another domain may look into an image that was left", "[hook]") {
  auto backup = web_on(kHdd);
  backup.uuid = "00000000-0000-0000-0000-000000000001";
  CHECK(word({job(Phase::done, kHdd, kSsd)}, backup) == "good");
  CHECK(word({job(Phase::held_unknown, kHdd, kSsd)}, backup) == "good");
  CHECK(word({job(Phase::hydrate, kHdd, kSsd)}, backup) == "good");
  // But not write to one that is being filled.
  backup.disks[0].image = kSsd;
  CHECK(word({job(Phase::copy, kHdd, kSsd)}, backup) == "unfinished");
  CHECK(word({job(Phase::done, kHdd, kSsd)}, backup) == "good");
}

TEST_CASE("start: an overlay on the disk of a held job is not started", "[hook]") {
  auto held = job(Phase::held_unknown, kHdd, kSsd);
  held.disk = "vdc";
  const auto found = about({held});
  REQUIRE(found.size() == 2);  // its source is on vda
  CHECK(found[1].disk == "vdc");
  CHECK_FALSE(found[1].target);
}

TEST_CASE("start: pool, namespace and image must all be the same", "[hook]") {
  CHECK(word({job(Phase::done, {"hdd", "ns", "web"}, kSsd)}) == "good");
  CHECK(word({job(Phase::done, {"other", "", "web"}, kSsd)}) == "good");
  CHECK(word({job(Phase::done, {"hdd", "", "web2"}, kSsd)}) == "good");
}

TEST_CASE("start: the sentence says what was found and what to do", "[hook]") {
  auto sentence = about({job(Phase::done, kHdd, kSsd)}).at(0).sentence;
  for (const auto* part :
       {"'web'", "'vda'", "hdd/web", "ssd/web", "virsh edit web", "/state/jobs/000000000001.journal"}) {
    CHECK(sentence.find(part) != std::string::npos);
  }
  CHECK(sentence.find('\n') == std::string::npos);
  sentence = objections(web(kNovaMetadata), {job(Phase::done, kHdd, kSsd)}, "/state/jobs").at(0).sentence;
  CHECK(sentence.find("restart nova-compute") != std::string::npos);
  CHECK(about({job(Phase::held_unknown, kHdd, kSsd)}).at(0).sentence.find("poolshift recover 000000000001") !=
        std::string::npos);
}

TEST_CASE("start: the target is offered when it is reached the way the disk is", "[hook]") {
  const auto done = job(Phase::done, kHdd, kSsd);
  CHECK(about({done}).at(0).target == kSsd);
  auto other_user = done;
  other_user.target_access.user = "somebody";
  CHECK_FALSE(about({other_user}).at(0).target);
  auto other_cluster = done;
  other_cluster.source_access.mon_hosts = other_cluster.target_access.mon_hosts = {"10.9.9.9:6789"};
  CHECK_FALSE(about({other_cluster}).at(0).target);
  CHECK_FALSE(about({job(Phase::pivot, kHdd, kSsd)}).at(0).target);
}
