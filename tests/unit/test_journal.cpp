// One case per kind of damage that a journal can have, and what a crash leaves.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <set>

#include "engine/job_record.h"
#include "fakes/fake_world.h"
#include "journal/job_store.h"
#include "journal/journal.h"

namespace poolshift {

namespace {

const std::string kOne = frame_record(R"({"n":1})");
const std::string kTwo = frame_record(R"({"n":2})");

std::string damage_of(const std::string& content) {
  const auto replay = replay_journal(content);
  if (replay) return "none";
  CHECK(replay.error().code == ErrorCode::damaged);
  CHECK_FALSE(replay.error().advice.empty());
  return replay.error().message;
}

JobRecord some_record(const std::string& id) {
  JobRecord record;
  record.job_id = id;
  record.phase = Phase::copy;
  record.domain_uuid = "uuid";
  record.domain_name = "guest";
  record.disk = "vda";
  record.source = {"hdd", "", "disk"};
  record.target = {"ssd", "ns", "disk"};
  record.source_access = {{"127.0.0.1:6789", "[::1]:6789"}, "cinder", "secret", "", ""};
  record.target_access = {{}, "", "", "usage", "/etc/ceph/other.conf"};
  record.engine_reason = "asked for";
  record.bandwidth_bytes_per_s = 1'000;
  record.source_after = SourceAfter::trash;
  record.create_target = true;
  record.labels = {{"ticket", "7"}};
  record.source_watcher = "127.0.0.1:0/42";
  record.source_size_bytes = 1ULL << 40;
  record.source_used_bytes = 7;
  record.source_unmaps = true;
  record.target_spec = {1ULL << 40, 61, 22, 65536, 4, "data", {{"owner", "somebody"}}};
  record.checks = {{"room", Check::Outcome::warn, "found", "advice"}};
  record.copy_started = true;
  record.limit_to_restore = WriteLimit{5, 0};
  record.convergence = "limited";
  record.copied_bytes = 3;
  record.target_used_bytes = 4;
  record.sparsified = true;
  record.flattening = true;
  record.cancelled = true;
  record.error = Error{ErrorCode::unreachable, "message", "advice"};
  record.notes = {"note"};
  record.seconds.copy = 1.5;
  return record;
}

nlohmann::json json_of(const JobRecord& record) {
  nlohmann::json json;
  to_json(json, record);
  return json;
}

}  // namespace

TEST_CASE("a journal gives its last whole record") {
  const auto replay = replay_journal(kOne + kTwo);
  REQUIRE(replay);
  CHECK(replay->last_record == R"({"n":2})");
  CHECK(replay->record_count == 2);
  CHECK(replay->intact_bytes == kOne.size() + kTwo.size());
}

TEST_CASE("the checksum is CRC-32C") {
  // RFC 3720, B.4, and the well-known check value.
  CHECK(frame_record("123456789").substr(0, 8) == "e3069283");
}

TEST_CASE("a torn last line is ignored, wherever it is torn") {
  for (std::size_t cut = 1; cut < kTwo.size(); ++cut) {
    const auto replay = replay_journal(kOne + kTwo.substr(0, cut));
    REQUIRE(replay);
    CHECK(replay->last_record == R"({"n":1})");
    CHECK(replay->intact_bytes == kOne.size());
  }
  auto zeroed = kTwo;  // the size reached the disk, a page of it did not
  std::fill(zeroed.begin() + 5, zeroed.end() - 1, '\0');
  CHECK(replay_journal(kOne + zeroed));
}

TEST_CASE("damage is named") {
  auto flipped = kOne;
  flipped[flipped.size() - 3] ^= 1;
  CHECK(damage_of("") == "the journal is empty");
  CHECK(damage_of(flipped + kTwo) == "line 1 of the journal has a wrong checksum");
  CHECK(damage_of(kOne + flipped + kTwo) == "line 2 of the journal has a wrong checksum");
  CHECK(damage_of("0123\n" + kTwo) == "line 1 of the journal has no checksum");
  CHECK(damage_of("01234567 12\n" + kTwo) == "line 1 of the journal has no length");
  CHECK(damage_of("xyz45678 7 {}\n" + kTwo) == "line 1 of the journal has an unreadable checksum");
  CHECK(damage_of("01234567 7x {}\n" + kTwo) == "line 1 of the journal has an unreadable length");
  CHECK(damage_of("01234567 7 {}\n" + kTwo) == "line 1 of the journal has a wrong length");
  CHECK(damage_of(kOne.substr(0, 10)) == "line 1 of the journal has no length");
  CHECK(damage_of(kOne.substr(0, kOne.size() - 1)) == "line 1 of the journal has no line break");
}

TEST_CASE("a record comes back as it was written") {
  const auto record = some_record("0123456789ab");
  const auto again = record_from_json(json_of(record));
  REQUIRE(again);
  CHECK(json_of(*again) == json_of(record));
  auto access = record.target_access;
  access.conf_path.clear();  // a journal never names a file that is read
  CHECK(again->target_access == access);
  CHECK(again->target_spec == record.target_spec);
}

TEST_CASE("a record that cannot be trusted is damaged, key by key") {
  // Older records do not have them.
  const std::set<std::string> optional = {
      "hydration",           "hydration_reason",  "max_pause_ms", "overlay_path", "overlay_bytes",
      "resume_guest",        "overlay_committed", "labels",       "offline",      "disk_xml",
      "persistent_disk_xml", "disk_is_compared",  "flattening",   "source_id",    "target_id"};
  const auto whole = json_of(some_record("0123456789ab"));
  for (const auto& [key, value] : whole.items()) {
    INFO(key);
    auto without = whole;
    without.erase(key);
    CHECK(record_from_json(without).ok() == (optional.count(key) != 0));
    auto of_wrong_type = whole;
    of_wrong_type[key] = nlohmann::json::array({1});
    if (!value.is_array()) CHECK_FALSE(record_from_json(of_wrong_type));
  }
  auto unknown_phase = whole;
  unknown_phase["phase"] = "teleport";
  CHECK_FALSE(record_from_json(unknown_phase));
  auto unknown_engine = whole;
  unknown_engine["engine"] = "teleport";
  CHECK_FALSE(record_from_json(unknown_engine));
  auto newer = whole;
  newer["added_later"] = 1;
  CHECK(record_from_json(newer));
}

TEST_CASE("a record that an older version wrote still loads") {
  // A frozen copy, never changed: add another one beside it when the record grows.
  const auto frozen = nlohmann::json::parse(R"({
    "schema":1,"job":"0123456789ab","phase":"copy","resume_phase":"prepare","guest_on":"source",
    "started_wall_ms":1,"changed_wall_ms":2,"domain_uuid":"u","domain_name":"guest","disk":"vda","engine":"mirror",
    "engine_reason":"","bandwidth_bytes_per_s":0,"source_after":"keep","create_target":false,"source_watcher":"w",
    "source_size_bytes":1,"source_used_bytes":1,"source_unmaps":true,"checks":[],"copy_started":true,
    "convergence":"none needed","copied_bytes":0,"target_used_bytes":0,"sparsified":false,"cancelled":false,"notes":[],
    "source":{"pool":"hdd","namespace":"","image":"a"},"target":{"pool":"ssd","namespace":"","image":"a"},
    "source_access":{"mon_hosts":[],"user":"","secret_uuid":"","secret_usage":"","conf_path":""},
    "target_access":{"mon_hosts":[],"user":"","secret_uuid":"","secret_usage":"","conf_path":""},
    "target_spec":{"size_bytes":1,"features":61,"order":22,"stripe_unit_bytes":0,"stripe_count":0,"data_pool":"",
                   "metadata":{}},
    "seconds":{"validate":0,"prepare":0,"copy":0,"pivot":0,"retire":0,"undo":0,"pause":0},
    "limit_to_restore":null,"error":null})");
  CHECK(record_from_json(frozen));
}

TEST_CASE("a handover's record that an older version wrote still loads") {
  // A frozen copy, never changed.
  const auto frozen = nlohmann::json::parse(R"({
    "schema":1,"job":"0123456789ab","phase":"hydrate","resume_phase":"prepare","guest_on":"target",
    "started_wall_ms":1,"changed_wall_ms":2,"domain_uuid":"u","domain_name":"guest","disk":"vda","engine":"handover",
    "engine_reason":"asked for","bandwidth_bytes_per_s":0,"source_after":"keep","create_target":false,
    "hydration":"offload","hydration_reason":"source and target have the same layout","max_pause_ms":3000,
    "overlay_path":"/var/lib/poolshift/overlays/0123456789ab.qcow2","overlay_bytes":196616,"resume_guest":true,
    "overlay_committed":false,"source_watcher":"w","source_size_bytes":1,"source_used_bytes":1,"source_unmaps":true,
    "checks":[],"copy_started":false,"convergence":"none needed","copied_bytes":0,"target_used_bytes":0,
    "sparsified":false,"cancelled":false,"notes":[],
    "source":{"pool":"hdd","namespace":"","image":"a"},"target":{"pool":"ssd","namespace":"","image":"a"},
    "source_access":{"mon_hosts":[],"user":"","secret_uuid":"","secret_usage":"","conf_path":""},
    "target_access":{"mon_hosts":[],"user":"","secret_uuid":"","secret_usage":"","conf_path":""},
    "target_spec":{"size_bytes":1,"features":61,"order":22,"stripe_unit_bytes":0,"stripe_count":0,"data_pool":"",
                   "metadata":{}},
    "seconds":{"validate":0,"prepare":0,"copy":0,"pivot":0,"hydrate":0,"retire":0,"undo":0,"pause":0,"snapshot":0},
    "limit_to_restore":null,"error":null})");
  const auto record = record_from_json(frozen);
  REQUIRE(record);
  CHECK(record->phase == Phase::hydrate);
  CHECK(record->hydration == Hydration::offload);
  CHECK(record->overlay_path == "/var/lib/poolshift/overlays/0123456789ab.qcow2");
  CHECK(record->overlay_bytes == 196616);
  CHECK(record->resume_guest);
}

TEST_CASE("the store keeps one job per disk and per image") {
  fakes::FakeWorld world;
  auto system = world.system();
  JobStore store(*system, "/state");
  auto journal = store.create(some_record("0123456789ab"));
  REQUIRE(journal);

  auto other = some_record("0123456789ac");
  CHECK(store.create(other).error().code == ErrorCode::busy);  // same disk
  other.disk = "vdb";
  CHECK(store.create(other).error().code == ErrorCode::busy);  // same images
  other.source.image = "b";
  other.target.image = "b";
  CHECK(store.create(other));

  CHECK(store.open_job("0123456789ab").error().code == ErrorCode::busy);
  CHECK(store.look_at("0123456789ab")->running);
  { const auto dropped = std::move(*journal); }
  CHECK_FALSE(store.look_at("0123456789ab")->running);
  CHECK(store.open_job("0123456789ab"));
  CHECK(store.look_at("ffffffffffff").error().code == ErrorCode::not_found);
  CHECK(store.look_at("../../etc/passwd").error().code == ErrorCode::not_found);
}

TEST_CASE("nothing is started beside a journal that cannot be read") {
  fakes::FakeWorld world;
  auto system = world.system();
  JobStore store(*system, "/state");
  world.files["/state/jobs/0123456789ab.journal"].content = "rubbish";
  auto record = some_record("0123456789ac");
  CHECK(store.create(record).error().code == ErrorCode::damaged);
}

TEST_CASE("taking a job up cuts the torn line off, so that it never lies in the middle") {
  fakes::FakeWorld world;
  auto system = world.system();
  JobStore store(*system, "/state");
  auto record = some_record("0123456789ab");
  { REQUIRE(store.create(record)); }
  world.files["/state/jobs/0123456789ab.journal"].content += "0123";
  {
    auto opened = store.open_job("0123456789ab");
    REQUIRE(opened);
    record.phase = Phase::undo;
    REQUIRE(opened->journal.append(record));
  }
  CHECK(store.look_at("0123456789ab")->record.phase == Phase::undo);
}

TEST_CASE("a record that could not be written is cut off before the next one") {
  for (const auto when :
       {fakes::FakeWorld::CrashWhen::before, fakes::FakeWorld::CrashWhen::torn, fakes::FakeWorld::CrashWhen::after}) {
    fakes::FakeWorld world;
    const auto system = world.system();
    JobStore store(*system, "/state");
    auto record = some_record("aaaaaaaaaaaa");
    auto journal = store.create(record);
    REQUIRE(journal);
    world.fail_at(1, {Error{ErrorCode::failed, "no space left", ""}, when, false, 0, true});
    record.phase = Phase::pivot;
    CHECK_FALSE(journal->append(record));
    CHECK(world.fault_is_hit());
    record.phase = Phase::retire;
    REQUIRE(journal->append(record));
    const auto replay = replay_journal(world.files.at("/state/jobs/aaaaaaaaaaaa.journal").content);
    REQUIRE(replay);
    CHECK(replay->record_count == 2);
  }
}

TEST_CASE("what people asked for adds up") {
  fakes::FakeWorld world;
  auto system = world.system();
  JobStore store(*system, "/state");
  CHECK_FALSE(store.control("0123456789ab")->cancel);
  REQUIRE(store.change_control("0123456789ab", {false, 5}));
  REQUIRE(store.change_control("0123456789ab", {true, std::nullopt}));
  CHECK(store.control("0123456789ab")->cancel);
  CHECK(store.control("0123456789ab")->bandwidth_bytes_per_s == 5);
  world.files["/state/jobs/0123456789ab.control"].content = "{ rubbish";
  CHECK_FALSE(store.control("0123456789ab")->cancel);
}

}  // namespace poolshift
