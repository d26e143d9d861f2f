// What a member of the shared group can put into the state folder, and what becomes of it: with real files.
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "adapters/posix_system.h"
#include "adapters/qcow2.h"
#include "journal/job_store.h"
#include "journal/journal.h"

namespace poolshift {

namespace {

constexpr uid_t kMember = 12345;
constexpr const char* kJob = "0123456789ab";

struct StateFolder {
  StateFolder() {
    auto name = (std::filesystem::temp_directory_path() / "poolshift-trust.XXXXXX").string();
    if (::mkdtemp(name.data()) != nullptr) path = name;
    for (const char* folder : {"/jobs", "/overlays"}) {
      REQUIRE(::mkdir((path + folder).c_str(), 0770) == 0);
      REQUIRE(::chmod((path + folder).c_str(), 02770) == 0);
    }
  }
  ~StateFolder() { std::filesystem::remove_all(path); }
  StateFolder(const StateFolder&) = delete;
  StateFolder& operator=(const StateFolder&) = delete;

  JobStore store() const { return {*system, path}; }
  std::string journal() const { return path + "/jobs/" + kJob + ".journal"; }
  std::string overlay() const { return path + "/overlays/" + kJob + ".qcow2"; }

  std::unique_ptr<System> system = make_posix_system();
  std::string path;
};

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

JobRecord handover_record() {
  JobRecord record;
  record.job_id = kJob;
  record.phase = Phase::undo;
  record.engine = kHandover;
  record.domain_uuid = "f3f2d0f4-0000-4000-8000-000000000000";
  record.domain_name = "guest";
  record.disk = "vda";
  record.source = {"hdd", "", "disk"};
  record.target = {"ssd", "", "disk"};
  return record;
}

// A limit on the length of every file that this process writes, for as long as it lives.
class FileLimit {
 public:
  explicit FileLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    handler_ = ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, handler_);
  }
  FileLimit(const FileLimit&) = delete;
  FileLimit& operator=(const FileLimit&) = delete;

 private:
  rlimit before_{};
  sighandler_t handler_ = SIG_DFL;
};

}  // namespace

TEST_CASE("another user's journal is looked at and not taken up", "[trust]") {
  if (::geteuid() != 0) {
    WARN("left out: only root can make another user's files");
    return;
  }
  const StateFolder folder;
  auto store = folder.store();
  { REQUIRE(store.create(handover_record())); }
  REQUIRE(::chown(folder.journal().c_str(), kMember, 0) == 0);
  const auto before = content_of(folder.journal());
  const auto opened = store.open_job(kJob);
  REQUIRE_FALSE(opened);
  CHECK(opened.error().code == ErrorCode::denied);
  CHECK_THAT(opened.error().message, Catch::Contains(kJob) && Catch::Contains("belongs to user '12345'"));
  CHECK(store.look_at(kJob));
  CHECK(folder.system->append_file(folder.journal(), "x").error().code == ErrorCode::denied);
  CHECK(folder.system->truncate_file(folder.journal(), 0).error().code == ErrorCode::denied);
  CHECK(content_of(folder.journal()) == before);
  // Of a user who is not in the folder's group, it is not even shown.
  REQUIRE(::chown(folder.journal().c_str(), kMember, kMember) == 0);
  CHECK(store.look_at(kJob).error().code == ErrorCode::damaged);
}

TEST_CASE("a journal cannot name a file that is removed", "[trust]") {
  const StateFolder folder;
  auto store = folder.store();
  auto record = handover_record();
  record.overlay_path = folder.path + "/victim";
  { REQUIRE(store.create(record)); }
  const auto opened = store.open_job(kJob);
  REQUIRE_FALSE(opened);
  CHECK(opened.error().code == ErrorCode::denied);
  CHECK_THAT(opened.error().message, Catch::Contains("/victim") && Catch::Contains(folder.overlay()));
  CHECK_FALSE(opened.error().advice.empty());
}

TEST_CASE("a job's overlay follows from its id", "[trust]") {
  const StateFolder folder;
  auto store = folder.store();
  { REQUIRE(store.create(handover_record())); }
  const auto opened = store.open_job(kJob);
  REQUIRE(opened);
  CHECK(opened->record.overlay_path == folder.overlay());
}

TEST_CASE("a link in place of a journal is not followed", "[trust]") {
  const StateFolder folder;
  auto store = folder.store();
  auto journal = store.create(handover_record());
  REQUIRE(journal);
  const auto victim = folder.path + "/victim";
  std::filesystem::rename(folder.journal(), victim);
  REQUIRE(::symlink(victim.c_str(), folder.journal().c_str()) == 0);
  const auto before = content_of(victim);
  CHECK_FALSE(journal->append(handover_record()));
  CHECK(store.look_at(kJob).error().code == ErrorCode::damaged);
  CHECK_FALSE(store.open_job(kJob));
  CHECK(content_of(victim) == before);
}

TEST_CASE("a link in place of an overlay is replaced", "[trust]") {
  const StateFolder folder;
  const auto victim = folder.path + "/victim";
  std::ofstream(victim) << "precious";
  REQUIRE(::symlink(victim.c_str(), folder.overlay().c_str()) == 0);
  REQUIRE(folder.system->create_overlay(folder.overlay(), 1 << 30));
  CHECK(content_of(victim) == "precious");
  CHECK(std::filesystem::symlink_status(folder.overlay()).type() == std::filesystem::file_type::regular);
  REQUIRE(::chmod((folder.path + "/overlays").c_str(), 02777) == 0);
  CHECK(folder.system->create_overlay(folder.overlay(), 1 << 30).error().code == ErrorCode::denied);
}

TEST_CASE("an overlay is what qemu-img makes", "[trust]") {
  const StateFolder folder;
  const auto ask = [](const std::string& command) { return std::system(command.c_str()); };
  REQUIRE(ask("qemu-img --version >/dev/null") == 0);
  const auto theirs = folder.path + "/theirs";
  constexpr std::uint64_t kTiB = 1ULL << 40;
  for (const std::uint64_t bytes : {std::uint64_t{512}, std::uint64_t{1} << 29, (std::uint64_t{1} << 30) + 512,
                                    4 * kTiB, 4 * kTiB + 512, 100 * kTiB, 2048 * kTiB}) {
    INFO(bytes);
    REQUIRE(folder.system->create_overlay(folder.overlay(), bytes));
    CHECK(ask("qemu-img check -q -f qcow2 " + folder.overlay()) == 0);
    REQUIRE(ask("qemu-img create -q -f qcow2 " + theirs + " " + std::to_string(bytes)) == 0);
    CHECK(std::filesystem::file_size(folder.overlay()) == std::filesystem::file_size(theirs));
    CHECK(ask("qemu-img info --output=json " + folder.overlay() +
              " | grep -q '\"virtual-size\": " + std::to_string(bytes) + ",'") == 0);
    if (bytes <= 4 * kTiB) {
      CHECK(ask("qemu-io -f qcow2 -c 'write -P 7 " + std::to_string(bytes - 512) + " 512' -c 'read -P 7 " +
                std::to_string(bytes - 512) + " 512' " + folder.overlay() + " >/dev/null") == 0);
      CHECK(ask("qemu-img check -q -f qcow2 " + folder.overlay()) == 0);
    }
  }
  CHECK_FALSE(empty_qcow2(0));
  CHECK_FALSE(empty_qcow2(513));
  CHECK_FALSE(empty_qcow2(UINT64_MAX - 511));
}

TEST_CASE("nothing is written behind a record that was cut short", "[trust]") {
  const StateFolder folder;
  auto store = folder.store();
  auto record = handover_record();
  auto journal = store.create(record);
  REQUIRE(journal);
  const auto intact = content_of(folder.journal());
  record.phase = Phase::held_on_source;
  {
    const FileLimit limit(intact.size() + 10);
    CHECK_FALSE(journal->append(record));
  }
  REQUIRE(journal->append(record));
  CHECK(store.look_at(kJob)->record.phase == Phase::held_on_source);
}

TEST_CASE("a job that has begun can be written to its end on a full disk", "[trust]") {
  if (::geteuid() != 0) {
    WARN("left out: only root can mount a small file system");
    return;
  }
  const StateFolder folder;
  const auto jobs = folder.path + "/jobs";
  if (::mount("none", jobs.c_str(), "tmpfs", 0, "size=1m,mode=2770") != 0) {
    WARN("left out: nothing can be mounted here");
    return;
  }
  const auto unmount = std::unique_ptr<const char, void (*)(const char*)>(
      jobs.c_str(), [](const char* path) { ::umount2(path, MNT_DETACH); });
  const auto fill = [&] {
    std::ofstream file(jobs + "/filler", std::ios::binary | std::ios::app);
    const std::string block(4096, 'x');
    while (file.write(block.data(), 4096).flush()) {
    }
  };
  auto store = folder.store();
  auto record = handover_record();
  {
    auto journal = store.create(record);
    REQUIRE(journal);
    fill();
    for (int i = 0; i < 20; ++i) REQUIRE(journal->append(record));
  }
  {
    auto opened = store.open_job(kJob);
    REQUIRE(opened);
    record.phase = Phase::undone;
    REQUIRE(opened->journal.append(record));
  }
  CHECK(store.look_at(kJob)->record.phase == Phase::undone);
  // What the ended job gives back, the filler takes: a new one is not begun, and nothing is left of it.
  fill();
  auto other = handover_record();
  other.job_id = "0123456789ac";
  CHECK(store.create(other).error().code == ErrorCode::failed);
  CHECK(store.job_ids()->size() == 1);
}

}  // namespace poolshift
