// The hook as libvirt sees it, on a fake file system: what it answers, and that whatever is broken lets the domain
// start.
#include <fmt/core.h>

#include <catch2/catch.hpp>

#include "engine/job_record.h"
#include "fakes/fake_world.h"
#include "hook.h"
#include "hook_fixture.h"
#include "journal/journal.h"
#include "spool/spool.h"

using namespace poolshift;
using namespace poolshift::hook;
using nlohmann::json;

namespace {

constexpr const char* kJob = "00000000000a";
constexpr const char* kPolicy =
    R"({"schema":1,"rules":[{"name":"r","match":{"pool":"hdd","image":"web"},"swap":{"pool":"ssd"}}]})";

class Host {
 public:
  Answer call(const std::string& operation, const std::string& xml = web_xml()) {
    xml_was_read = false;
    return answer(*system_, {"/state", "/policy"}, operation, [&]() -> Result<std::string> {
      xml_was_read = true;
      return xml;
    });
  }

  void put(const std::string& path, const std::string& text) { world.files[path] = {text, text, true}; }

  std::string journal_of(Phase phase) {
    JobRecord record;
    record.job_id = kJob;
    record.phase = phase;
    record.domain_uuid = kWebUuid;
    record.domain_name = "web";
    record.disk = "vda";
    record.source = {"hdd", "", "web"};
    record.target = {"ssd", "", "web"};
    record.source_access.mon_hosts = {"10.0.0.1:6789"};
    record.source_access.user = "cinder";
    record.target_access = record.source_access;
    json out;
    to_json(out, record);
    return frame_record(out.dump());
  }
  void put_journal(const std::string& text) { put(fmt::format("/state/jobs/{}.journal", kJob), text); }

  std::vector<SpoolRequest> waiting() { return *Spool(*system_, "/state").waiting(); }

  fakes::FakeWorld world;
  bool xml_was_read = false;

 private:
  std::unique_ptr<System> system_ = world.system();
};

std::string logged(const Answer& answer) {
  std::string text;
  for (const auto& line : answer.log) text += line.text + "\n";
  return text;
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("hook: without a reason it does not even read the XML", "[hook]") {
  Host host;
  for (const auto* operation :
       {"prepare", "migrate", "start", "release", "restore", "reconnect", "attach", "no such"}) {
    const auto given = host.call(operation);
    CHECK_FALSE(given.refused);
    CHECK(given.log.empty());
    CHECK_FALSE(host.xml_was_read);
  }
}

TEST_CASE("hook: the start on an image that was left is refused", "[hook]") {
  Host host;
  host.put_journal(host.journal_of(Phase::copy) + host.journal_of(Phase::done));
  const auto refused = host.call("prepare");
  CHECK(refused.refused);
  CHECK(has(refused.complaint, "hdd/web"));
  CHECK_FALSE(has(refused.complaint, "\n"));
  CHECK(has(logged(refused), refused.complaint));
  for (const auto* operation : {"start", "started", "stopped", "release", "restore", "reconnect"}) {
    CHECK_FALSE(host.call(operation).refused);
  }
  host.put_journal(host.journal_of(Phase::copy));
  CHECK_FALSE(host.call("prepare").refused);
}

TEST_CASE("hook: a torn last line counts as little as for the library", "[hook]") {
  Host host;
  const auto done = host.journal_of(Phase::done);
  host.put_journal(host.journal_of(Phase::copy) + done.substr(0, done.size() / 2));
  CHECK_FALSE(host.call("prepare").refused);
  host.put_journal(done + done.substr(0, 20));
  CHECK(host.call("prepare").refused);
}

TEST_CASE("hook: a record that is longer than what is read at first", "[hook]") {
  Host host;
  JobRecord record;
  const auto line = host.journal_of(Phase::done);
  auto out = json::parse(replay_journal(line)->last_record);
  out["notes"] = {std::string(100'000, 'x')};
  host.put_journal(host.journal_of(Phase::copy) + frame_record(out.dump()));
  CHECK(host.call("prepare").refused);
}

TEST_CASE("hook: a migration is refused too, or retargeted when journals are shared", "[hook]") {
  Host host;
  host.put_journal(host.journal_of(Phase::done));
  auto given = host.call("migrate");
  CHECK(given.refused);
  CHECK(given.xml.empty());
  host.put("/policy/a.json", R"({"schema":1,"journals_are_shared":true})");
  given = host.call("migrate");
  CHECK_FALSE(given.refused);
  const auto domain = parse_domain_xml(given.xml);
  REQUIRE(domain.ok());
  CHECK(domain->disks.at(0).image == ImageName{"ssd", "", "web"});
  CHECK(domain->disks.at(0).access == web().disks.at(0).access);
  CHECK(domain->disks.at(1).image == ImageName{"hdd", "ns", "data"});
  CHECK(has(logged(given), "ssd/web"));
  // Not on this host itself, and not while it is not known where the guest's data is.
  CHECK(host.call("prepare").refused);
  host.put_journal(host.journal_of(Phase::held_unknown));
  CHECK(host.call("migrate").refused);
  CHECK(host.call("migrate").xml.empty());
}

TEST_CASE("hook: damaged journals let the domain start, and the log says so", "[hook]") {
  const Host source;
  Host host;
  const auto whole = host.journal_of(Phase::done);
  auto flipped = whole;
  flipped[whole.size() / 2] ^= 1;
  const std::string no_record = frame_record(R"({"job":1})");
  for (const auto& content : {std::string(), std::string("\n"), std::string("\0\0\0\n", 4), std::string("x"), flipped,
                              whole.substr(1), no_record, std::string(20'000, 'x'), std::string(20'000, '\n')}) {
    // It must be about this domain, or it is not looked at.
    host.put_journal(content);
    CHECK_FALSE(host.call("prepare").refused);
  }
  host.put_journal(flipped);
  CHECK(has(logged(host.call("prepare")), kJob));
  host.put_journal("");
  CHECK(has(logged(host.call("prepare")), "the journal is empty"));
  // One that is damaged does not hide another one.
  host.put("/state/jobs/00000000000b.journal", whole);
  CHECK(host.call("prepare").refused);
}

TEST_CASE("hook: an earlier line that is damaged does not hide the newest record", "[hook]") {
  Host host;
  auto damaged = host.journal_of(Phase::copy);
  damaged[20] ^= 1;
  host.put_journal(damaged + host.journal_of(Phase::done));
  CHECK(host.call("prepare").refused);
}

TEST_CASE("hook: XML that cannot be read lets the domain start", "[hook]") {
  Host host;
  host.put_journal(host.journal_of(Phase::done));
  host.put("/policy/a.json", kPolicy);
  for (const auto* operation : {"prepare", "migrate", "started", "stopped"}) {
    for (const auto& xml : {std::string(), std::string("<"), std::string("<domain>"), std::string("<network/>"),
                            std::string(kMaxDomainXmlBytes + 1, ' '), std::string("\0<domain/>", 10)}) {
      const auto given = host.call(operation, xml);
      CHECK_FALSE(given.refused);
      CHECK(given.xml.empty());
      CHECK_FALSE(given.log.empty());
    }
  }
  const auto given = answer(*host.world.system(), {"/state", "/policy"}, "prepare", []() -> Result<std::string> {
    return Error{ErrorCode::failed, "no standard input", "None."};
  });
  CHECK_FALSE(given.refused);
  CHECK(has(logged(given), "no standard input"));
}

TEST_CASE("hook: a policy asks for a swap once", "[hook]") {
  Host host;
  host.put("/policy/a.json", kPolicy);
  const auto given = host.call("started");
  CHECK_FALSE(given.refused);
  REQUIRE(host.waiting().size() == 1);
  CHECK(host.waiting()[0].disk == "vda");
  CHECK(has(logged(given), host.waiting()[0].id));
  CHECK(has(logged(host.call("started")), "asked for already"));
  CHECK(host.waiting().size() == 1);
  CHECK_FALSE(host.call("stopped").refused);
}

TEST_CASE("hook: metadata asks without any policy", "[hook]") {
  Host host;
  const auto swap = std::string("<ps:swap xmlns:ps='https://poolshift.dev/xmlns/1' disk='vda' pool='ssd' ");
  CHECK(host.call("started").log.empty());
  CHECK(host.waiting().empty());
  host.call("started", web_xml(swap + "/>"));
  REQUIRE(host.waiting().size() == 1);
  CHECK(host.waiting()[0].origin == Origin::metadata);
  // What only the reader of requests refuses.
  const auto given = host.call("started", web_xml(swap + "engine='telepathy'/>"));
  CHECK_FALSE(given.refused);
  CHECK(has(logged(given), "telepathy"));
  CHECK(host.waiting().size() == 1);
}

TEST_CASE("hook: a broken policy file does not stop the others", "[hook]") {
  Host host;
  host.put("/policy/a.json", "{");
  host.put("/policy/b.json", kPolicy);
  const auto given = host.call("started");
  CHECK_FALSE(given.refused);
  CHECK(has(logged(given), "/policy/a.json"));
  CHECK(host.waiting().size() == 1);
}
