// The spool: the format of a request, and the folder on real files.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "adapters/posix_system.h"
#include "fakes/fake_world.h"
#include "spool/spool.h"

namespace poolshift {

using nlohmann::json;

namespace {

constexpr const char* kUuid = "12345678-1234-1234-1234-123456789abc";

json request_json() {
  return {{"schema", 1},
          {"id", "0123456789ab"},
          {"created_ms", 1000},
          {"origin", "policy"},
          {"policy", "off the disks"},
          {"domain", {{"uuid", kUuid}, {"name", "web"}}},
          {"disk", "vda"},
          {"source", {{"pool", "volumes-hdd"}, {"namespace", ""}, {"image", "web"}}},
          {"swap", {{"target", "volumes-ssd/web"}, {"create", true}, {"bandwidth_bytes_per_s", 1000}}},
          {"window", "22:00-06:00"},
          {"at_most", 2}};
}

SpoolRequest request_for(const std::string& disk = "vda") {
  auto parsed = parse_spool_request(request_json().dump());
  REQUIRE(parsed);
  parsed->id.clear();
  parsed->created_ms = 0;
  parsed->disk = disk;
  return *parsed;
}

// A state folder on the real file system.
struct Folder {
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "poolshift-spool.XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
    REQUIRE(spool().open());
  }
  ~Folder() { std::filesystem::remove_all(path); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  Spool spool() { return {*system, path}; }
  std::string queue(const std::string& name) const { return path + "/spool/queue/" + name; }
  std::string file() const { return queue(std::string(kUuid) + ".vda.json"); }
  void write(const std::string& name, const std::string& text) const { std::ofstream(queue(name)) << text; }
  static std::size_t count(const std::string& folder) {
    const auto entries = std::filesystem::directory_iterator(folder);
    return static_cast<std::size_t>(std::distance(begin(entries), end(entries)));
  }

  std::string path;
  std::unique_ptr<System> system = make_posix_system();
};

}  // namespace

TEST_CASE("a spool request is read as it was written") {
  const auto request = parse_spool_request(request_json().dump());
  REQUIRE(request);
  CHECK(request->origin == Origin::policy);
  CHECK(request->source == ImageName{"volumes-hdd", "", "web"});
  CHECK(request->window->from_minute == 22 * 60);
  CHECK(to_json(*request) == request_json());
  const auto swap = swap_request_of(*request);
  CHECK(swap["domain"] == kUuid);
  CHECK(swap["source"] == "volumes-hdd/web");
  CHECK(swap["target"] == "volumes-ssd/web");
  CHECK(swap["labels"][kRequestLabel] == "0123456789ab");
}

TEST_CASE("a spool request that is not right is refused, naming the key") {
  struct Case {
    const char* pointer;
    json value;  // null: the key is taken away
    const char* names;
  };
  const Case cases[] = {{"/schema", 2, "schema"},
                        {"/schema", nullptr, "schema"},
                        {"/id", "0123", "'id'"},
                        {"/id", "../../../etc/", "'id'"},
                        {"/id", nullptr, "'id'"},
                        {"/created_ms", -1, "'created_ms'"},
                        {"/created_ms", "now", "'created_ms'"},
                        {"/origin", "root", "'origin'"},
                        {"/domain", "web", "'domain'"},
                        {"/domain/uuid", "12345678", "'uuid'"},
                        {"/domain/uuid", "../45678-1234-1234-1234-123456789abc", "'uuid'"},
                        {"/domain/name", "", "'name'"},
                        {"/domain/xml", "/etc/passwd", "unknown key 'xml'"},
                        {"/disk", "", "'disk'"},
                        {"/disk", "../vda", "'disk'"},
                        {"/disk", "vda.json", "'disk'"},
                        {"/source/pool", "", "name of an image"},
                        {"/source/pool", "a/b", "holds a '/'"},
                        {"/source/image", "web@snap", "name of an image"},
                        {"/swap", json::array(), "'swap'"},
                        {"/swap/target", nullptr, "'target'"},
                        {"/swap/target", "web", "name of an image"},
                        {"/swap/target_access", {{"ceph_conf", "/etc/shadow"}}, "'target_access'"},
                        {"/swap/labels", {{"request", "x"}}, "'labels'"},
                        {"/swap/domain", "other", "'domain'"},
                        {"/swap/engine", "rsync", "'engine'"},
                        {"/swap/bandwidth_bytes_per_s", -5, "'bandwidth_bytes_per_s'"},
                        {"/window", "22-06", "'window'"},
                        {"/window", "24:00-06:00", "'window'"},
                        {"/window", "06:00-06:00", "'window'"},
                        {"/at_most", 1001, "'at_most'"},
                        {"/policy", std::string(129, 'x'), "'policy'"},
                        {"/policy", "a\nb", "'policy'"},
                        {"/run", "rm -rf /", "unknown key 'run'"}};
  for (const auto& each : cases) {
    INFO(each.pointer << " = " << each.value.dump());
    auto damaged = request_json();
    const json::json_pointer pointer(each.pointer);
    if (each.value.is_null()) {
      damaged[pointer.parent_pointer()].erase(pointer.back());
    } else {
      damaged[pointer] = each.value;
    }
    const auto parsed = parse_spool_request(damaged.dump());
    REQUIRE_FALSE(parsed);
    CHECK(parsed.error().code == ErrorCode::invalid);
    CHECK_THAT(parsed.error().message, Catch::Contains(each.names));
    CHECK_FALSE(parsed.error().advice.empty());
  }
}

TEST_CASE("text that is cut off or changed anywhere is never taken for another request") {
  const auto text = request_json().dump();
  for (std::size_t length = 0; length < text.size(); ++length) {
    INFO(length);
    CHECK_FALSE(parse_spool_request(text.substr(0, length)));
  }
  CHECK_FALSE(parse_spool_request(text + std::string(kMaxSpoolRequestBytes, ' ')));
  CHECK_FALSE(parse_spool_request("{\"schema\":1,\"id\":\"\xff\xfe\"}"));
}

TEST_CASE("a window may go over midnight") {
  const auto night = parse_window("22:00-06:00");
  REQUIRE(night);
  CHECK_FALSE(is_open(*night, 21 * 60 + 59));
  CHECK(is_open(*night, 22 * 60));
  CHECK(is_open(*night, 0));
  CHECK(is_open(*night, 5 * 60 + 59));
  CHECK_FALSE(is_open(*night, 6 * 60));
  const auto day = parse_window("09:30-17:00");
  REQUIRE(day);
  CHECK_FALSE(is_open(*day, 9 * 60 + 29));
  CHECK(is_open(*day, 9 * 60 + 30));
  CHECK(is_open(*day, 16 * 60 + 59));
  CHECK_FALSE(is_open(*day, 17 * 60));
  CHECK_FALSE(is_open(*day, 0));
}

TEST_CASE("a request waits, is claimed, is put back, and ends") {
  Folder folder;
  auto spool = folder.spool();
  const auto id = spool.submit(request_for());
  REQUIRE(id);
  CHECK(spool.submit(request_for()).error().code == ErrorCode::exists);
  REQUIRE(spool.submit(request_for("vdb")));
  auto waiting = spool.waiting();
  REQUIRE(waiting);
  REQUIRE(waiting->size() == 2);
  const auto request = waiting->front();
  CHECK(request.id == *id);
  CHECK(request.created_ms > 0);

  REQUIRE(spool.claim(request));
  CHECK(spool.claim(request).error().code == ErrorCode::not_found);
  CHECK(spool.waiting()->size() == 1);
  CHECK(spool.running()->at(0).id == *id);
  CHECK(spool.submit(request_for()).error().code == ErrorCode::exists);

  REQUIRE(spool.set_retry(*id, {3, 5000, {{"code", "busy"}, {"message", "m"}, {"advice", "a"}}}));
  CHECK(spool.retry_of(*id)->attempts == 3);
  CHECK(spool.retry_of(*id)->error["code"] == "busy");
  REQUIRE(spool.put_back(request));
  CHECK(spool.running()->empty());
  REQUIRE(spool.claim(request));

  const Finished finished{request, 42, "done", 4, {{"state", "done"}}, nullptr};
  REQUIRE(spool.finish(finished));
  REQUIRE(spool.finish(finished));
  CHECK(spool.running()->empty());
  CHECK(spool.retry_of(*id)->attempts == 0);
  const auto done = spool.done(10);
  REQUIRE(done);
  REQUIRE(done->size() == 1);
  CHECK(done->front().request.id == *id);
  CHECK(done->front().finished_ms == 42);
  CHECK(done->front().report["state"] == "done");
  CHECK(spool.submit(request_for()).ok());
}

TEST_CASE("a waiting request is removed, and a failed one is asked for again") {
  Folder folder;
  auto spool = folder.spool();
  const auto id = spool.submit(request_for());
  REQUIRE(id);
  REQUIRE(spool.remove(*id));
  CHECK(spool.remove(*id).error().code == ErrorCode::not_found);
  json unreadable = json::array();
  const auto failed = spool.failed(10, &unreadable);
  REQUIRE(failed);
  REQUIRE(failed->size() == 1);
  CHECK(failed->front().outcome == "removed");
  CHECK(unreadable.empty());
  const auto again = spool.retry(*id);
  REQUIRE(again);
  CHECK(*again != *id);
  CHECK(spool.waiting()->at(0).id == *again);
  CHECK(spool.retry(*id).error().code == ErrorCode::exists);
  CHECK(spool.retry("ffffffffffff").error().code == ErrorCode::not_found);
  REQUIRE(spool.claim(spool.waiting()->at(0)));
  CHECK(spool.remove(*again).error().code == ErrorCode::not_found);
}

TEST_CASE("folders and files of the spool are for root and one group") {
  Folder folder;
  auto spool = folder.spool();
  REQUIRE(spool.submit(request_for()));
  struct stat status {};
  REQUIRE(::stat((folder.path + "/spool/queue").c_str(), &status) == 0);
  CHECK((status.st_mode & 07777) == 02770);
  REQUIRE(::stat(folder.file().c_str(), &status) == 0);
  CHECK((status.st_mode & 07137) == 0);
}

TEST_CASE("what is no request goes to failed with its reason, and the next one is seen") {
  Folder folder;
  auto spool = folder.spool();
  const auto good = request_json().dump();
  const auto name = std::string(kUuid) + ".vda.json";
  std::string why;
  SECTION("text") {
    folder.write(name, "rubbish");
    why = "is not JSON";
  }
  SECTION("nothing") {
    folder.write(name, "");
    why = "is not JSON";
  }
  SECTION("another disk's") {
    folder.write(std::string(kUuid) + ".vdc.json", good);
    why = "is about disk 'vda'";
  }
  SECTION("another name") {
    folder.write(std::string(200, 'x') + "\n", good);
    why = "is about disk 'vda'";
  }
  SECTION("a symbolic link") {
    std::ofstream(folder.path + "/elsewhere") << good;
    REQUIRE(::symlink((folder.path + "/elsewhere").c_str(), folder.file().c_str()) == 0);
    why = "symbolic link";
  }
  SECTION("a FIFO") {
    REQUIRE(::mkfifo(folder.file().c_str(), 0640) == 0);
    why = "not a regular file";
  }
  SECTION("a folder") {
    REQUIRE(::mkdir(folder.file().c_str(), 0750) == 0);
    why = "not a regular file";
  }
  SECTION("a huge file") {
    folder.write(name, good + std::string(kMaxSpoolRequestBytes, ' '));
    why = "longer than";
  }
  SECTION("a file that every user may write to") {
    folder.write(name, good);
    REQUIRE(::chmod(folder.file().c_str(), 0666) == 0);
    why = "every user may write";
  }
  SECTION("a file of another user and group") {
    if (::geteuid() != 0) return;
    folder.write(name, good);
    REQUIRE(::chown(folder.file().c_str(), 12345, 12345) == 0);
    why = "belongs to user 12345";
  }
  SECTION("a file with other names") {
    folder.write(name, good);
    REQUIRE(::link(folder.file().c_str(), (folder.path + "/one").c_str()) == 0);
    REQUIRE(::link(folder.file().c_str(), (folder.path + "/two").c_str()) == 0);
    why = "other names";
  }
  REQUIRE(spool.submit(request_for("vdb")));
  CHECK(spool.waiting()->size() == 1);
  const auto reasons = spool.put_away_bad();
  REQUIRE(reasons);
  REQUIRE(reasons->size() == 1);
  CHECK_THAT(reasons->front(), Catch::Contains(why));
  CHECK(spool.put_away_bad()->empty());
  CHECK(Folder::count(folder.path + "/spool/queue") == 1);
  json unreadable = json::array();
  REQUIRE(spool.failed(10, &unreadable));
  REQUIRE(unreadable.size() == 1);
  CHECK_THAT(unreadable[0]["error"]["message"].get<std::string>(), Catch::Contains(why));
}

TEST_CASE("a file of another user is believed when the folder's group may write") {
  if (::geteuid() != 0) return;
  Folder folder;
  auto spool = folder.spool();
  REQUIRE(spool.submit(request_for()));
  struct stat status {};
  REQUIRE(::stat((folder.path + "/spool/queue").c_str(), &status) == 0);
  REQUIRE(::chown(folder.file().c_str(), 12345, status.st_gid) == 0);
  CHECK(spool.waiting()->size() == 1);
  REQUIRE(::chmod((folder.path + "/spool/queue").c_str(), 02777) == 0);
  CHECK(spool.waiting()->empty());  // anybody may have put it there
}

TEST_CASE("a temporary file that a crash left is no request") {
  Folder folder;
  auto spool = folder.spool();
  folder.write(".x.tmp", "half a req");
  CHECK(spool.waiting()->empty());
  CHECK(spool.put_away_bad()->empty());
}

TEST_CASE("one worker at a time") {
  Folder folder;
  auto one = folder.spool();
  auto other = folder.spool();
  auto lock = one.lock_worker();
  REQUIRE(lock);
  CHECK(other.lock_worker().error().code == ErrorCode::busy);
  lock->reset();
  CHECK(other.lock_worker().ok());
}

}  // namespace poolshift
