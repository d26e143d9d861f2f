// What the real system says of files, processes and programs, for the doctor.
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "adapters/posix_system.h"

namespace poolshift {

namespace {

// A folder of this case's own, gone with it.
class Folder {
 public:
  Folder() {
    auto name = (std::filesystem::temp_directory_path() / "poolshift-unit.XXXXXX").string();
    if (::mkdtemp(name.data()) != nullptr) path_ = name;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::string operator/(const char* name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

void write_program(const std::string& path, const std::string& text) {
  std::ofstream(path) << "#!/bin/sh\n" << text << "\n";
  REQUIRE(::chmod(path.c_str(), 0755) == 0);
}

}  // namespace

TEST_CASE("a file system that becomes full does not stop the file for which space was reserved") {
  if (::geteuid() != 0) {
    WARN("not run: mounting a small file system takes root");
    return;
  }
  const Folder folder;
  const auto system = make_posix_system();
  const std::string place = folder / "small";
  REQUIRE(::mkdir(place.c_str(), 0700) == 0);
  REQUIRE(::mount("none", place.c_str(), "tmpfs", 0, "size=1m") == 0);
  const std::string journal = place + "/journal";
  const std::string other = place + "/other";
  CHECK(system->create_file(journal, "first\n"));
  CHECK(system->reserve_space(journal, 256 * 1024));
  CHECK(system->file_bytes(journal).value() == 6);
  CHECK(system->create_file(other, "\n"));
  while (system->append_file(other, std::string(64 * 1024, 'x'))) {
  }
  CHECK(system->reserve_space(other, 256 * 1024).error().code == ErrorCode::failed);
  CHECK(system->append_file(journal, std::string(200 * 1024, 'y')));
  CHECK(system->release_space(journal));
  CHECK(system->file_bytes(journal).value() == 6 + 200 * 1024);
  CHECK(system->append_file(other, std::string(32 * 1024, 'x')));
  CHECK(::umount(place.c_str()) == 0);
}

TEST_CASE("facts of a file are those of what a link names, but for when it came") {
  const Folder folder;
  const auto system = make_posix_system();
  const auto file = folder / "file";
  std::ofstream(file) << "text";
  REQUIRE(::chmod(file.c_str(), 04751) == 0);
  const auto before = system->file_facts(file);
  REQUIRE(before);
  CHECK(before->kind == FileFacts::Kind::regular);
  CHECK(before->mode == 04751);
  CHECK(before->owner == ::geteuid());
  CHECK(std::abs(before->changed_wall_ms - system->wall_clock_ms()) < 60'000);
  system->sleep_ms(20);  // longer than a tick of the file system's clock
  REQUIRE(::symlink(file.c_str(), (folder / "link").c_str()) == 0);
  const auto link = system->file_facts(folder / "link");
  REQUIRE(link);
  CHECK(link->mode == 04751);
  CHECK(link->changed_wall_ms > before->changed_wall_ms);
}

TEST_CASE("a process has a name and a time at which it started") {
  const auto system = make_posix_system();
  const auto self = system->process(::getpid());
  REQUIRE(self);
  CHECK(self->id == ::getpid());
  CHECK(self->name == "unit-tests");
  CHECK(self->started_wall_ms <= system->wall_clock_ms() + 100);
  CHECK(self->started_wall_ms > system->wall_clock_ms() - 3'600'000);
  const auto first = system->process(1);
  REQUIRE(first);
  CHECK(first->started_wall_ms < self->started_wall_ms);
}

TEST_CASE("who listens on a socket is told, and that nobody does") {
  const Folder folder;
  const auto system = make_posix_system();
  const auto path = folder / "socket";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, path.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  REQUIRE(::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  CHECK(system->listener(path).error().code == ErrorCode::not_found);  // it is bound only
  REQUIRE(::listen(fd, 1) == 0);
  const auto listener = system->listener(path);
  REQUIRE(listener);
  CHECK(listener->id == ::getpid());
  ::close(fd);
  CHECK(system->listener(path).error().code == ErrorCode::not_found);
}

TEST_CASE("a program's version is the first line that it prints") {
  const Folder folder;
  const auto system = make_posix_system();
  write_program(folder / "good", "[ \"$1\" = --version ] && echo program 1.2 && echo more");
  CHECK(*system->program_version(folder / "good") == "program 1.2");
  write_program(folder / "silent", "exit 0");
  CHECK(system->program_version(folder / "silent").error().code == ErrorCode::failed);
  CHECK(system->program_version(folder / "none").error().code == ErrorCode::not_found);
  write_program(folder / "hanging", "echo program 1.3; exec sleep 1000");
  CHECK(*system->program_version(folder / "hanging") == "program 1.3");
}

TEST_CASE("a program that closes its output and lives on is not waited for without end") {
  const Folder folder;
  const auto system = make_posix_system();
  // The guardian's first process.
  write_program(folder / "guardian", "read -r order; echo ready; exec >&-; exec sleep 1000");
  auto lock = system->lock_file(folder / "lock");
  REQUIRE(lock);
  CHECK(system->start_guardian(folder / "guardian", "{}", **lock));
}

}  // namespace poolshift
