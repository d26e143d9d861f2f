#include <algorithm>
#include <catch2/catch.hpp>

#include "checks.h"
#include "world.h"

namespace poolshift::contract {
namespace {

// A folder of this case's own.
std::string new_folder() {
  const auto path = world().folder() + "/" + unique("case");
  const auto made = world().system().make_folder(path);
  if (!made) FAIL(made.error().message);
  return path;
}

std::string content_of(const std::string& path) {
  const auto content = world().system().read_file(path, 1000);
  if (!content) FAIL(content.error().message);
  return *content;
}

}  // namespace

TEST_CASE("clocks go on and ids differ", "[system]") {
  auto& system = world().system();
  const auto before = system.monotonic_ms();
  system.sleep_ms(20);
  system.sleep_ms(0);
  system.sleep_ms(-1);
  CHECK(system.monotonic_ms() >= before + 20);
  CHECK(system.wall_clock_ms() > 1700000000000);
  const auto id = system.random_id();
  CHECK(id.size() == 12);
  CHECK(id.find_first_not_of("0123456789abcdef") == std::string::npos);
  CHECK(system.random_id() != id);
}

TEST_CASE("files are listed in order", "[system]") {
  auto& system = world().system();
  const auto folder = new_folder();
  REQUIRE_OK(system.make_folder(folder));
  for (const auto* name : {"z", "a", "m"}) REQUIRE_OK(system.create_file(folder + "/" + name, ""));
  const auto names = system.list_folder(folder);
  REQUIRE_OK(names);
  CHECK(*names == std::vector<std::string>{"a", "m", "z"});
}

TEST_CASE("a file is created once", "[system]") {
  auto& system = world().system();
  const auto path = new_folder() + "/file";
  CHECK_ERROR(system.read_file(path, 1000), ErrorCode::not_found);
  REQUIRE_OK(system.create_file(path, "first\n"));
  CHECK_ERROR(system.create_file(path, "second\n"), ErrorCode::exists);
  CHECK(content_of(path) == "first\n");
}

TEST_CASE("a file grows, is cut and is replaced", "[system]") {
  auto& system = world().system();
  const auto folder = new_folder();
  const auto path = folder + "/file";
  CHECK_ERROR(system.append_file(path, "x"), ErrorCode::not_found);
  CHECK_ERROR(system.truncate_file(path, 0), ErrorCode::not_found);
  REQUIRE_OK(system.create_file(path, "one\n"));
  REQUIRE_OK(system.append_file(path, "two\n"));
  REQUIRE_OK(system.append_file(path, ""));
  CHECK(content_of(path) == "one\ntwo\n");
  REQUIRE_OK(system.truncate_file(path, 5));
  CHECK(content_of(path) == "one\nt");
  REQUIRE_OK(system.append_file(path, "!"));
  CHECK(content_of(path) == "one\nt!");

  REQUIRE_OK(system.replace_file(path, "new"));
  CHECK(content_of(path) == "new");
  REQUIRE_OK(system.replace_file(folder + "/other", "made"));
  CHECK(content_of(folder + "/other") == "made");
  REQUIRE_OK(system.replace_public_file(folder + "/other", "for all"));
  CHECK(content_of(folder + "/other") == "for all");
  // No temporary file is left.
  CHECK(system.list_folder(folder)->size() == 2);

  REQUIRE_OK(system.remove_file(path));
  REQUIRE_OK(system.remove_file(path));
  CHECK_ERROR(system.read_file(path, 1000), ErrorCode::not_found);
}

TEST_CASE("a file's length is told", "[system]") {
  auto& system = world().system();
  const auto path = new_folder() + "/file";
  CHECK_ERROR(system.file_bytes(path), ErrorCode::not_found);
  REQUIRE_OK(system.create_file(path, "12345"));
  CHECK(*system.file_bytes(path) == 5);
  REQUIRE_OK(system.append_file(path, "6"));
  CHECK(*system.file_bytes(path) == 6);
}

TEST_CASE("what is not there has no facts", "[system]") {
  auto& system = world().system();
  const auto folder = new_folder();
  CHECK_ERROR(system.file_facts(folder + "/none"), ErrorCode::not_found);
  REQUIRE_OK(system.create_file(folder + "/file", "text"));
  const auto file = system.file_facts(folder + "/file");
  REQUIRE_OK(file);
  CHECK(file->kind == FileFacts::Kind::regular);
  CHECK((file->mode & 0133) == 0);
  const auto around = system.file_facts(folder);
  REQUIRE_OK(around);
  CHECK(around->kind == FileFacts::Kind::folder);
  CHECK_ERROR(system.process(0x7fffffff), ErrorCode::not_found);
  CHECK_ERROR(system.listener(folder + "/none"), ErrorCode::not_found);
  CHECK_ERROR(system.program_version(folder + "/none"), ErrorCode::not_found);
}

TEST_CASE("an overlay is made anew in a folder that QEMU can pass through", "[system]") {
  auto& system = world().system();
  const auto folder = world().passable_folder() + "/" + unique("case");
  REQUIRE_OK(system.make_passable_folder(folder));
  REQUIRE_OK(system.make_passable_folder(folder));
  const auto path = folder + "/overlay.qcow2";
  REQUIRE_OK(system.create_overlay(path, 64 * kMiB));
  const auto bytes = system.file_bytes(path);
  REQUIRE_OK(bytes);
  CHECK(*bytes > 0);
  CHECK(*bytes < kMiB);
  REQUIRE_OK(system.create_overlay(path, 64 * kMiB));
  CHECK(*system.file_bytes(path) == *bytes);
  CHECK(*system.list_folder(folder) == std::vector<std::string>{"overlay.qcow2"});
  REQUIRE_OK(system.remove_file(path));
  CHECK_ERROR(system.file_bytes(path), ErrorCode::not_found);
}

TEST_CASE("reading is limited", "[system]") {
  auto& system = world().system();
  const auto path = new_folder() + "/file";
  const std::string content(1000, 'x');
  REQUIRE_OK(system.create_file(path, content));
  CHECK(system.read_file(path, 1000).ok());
  CHECK_ERROR(system.read_file(path, 999), ErrorCode::failed);
}

TEST_CASE("a file that others may have put there is read within its limit", "[system]") {
  auto& system = world().system();
  const auto path = new_folder() + "/file";
  CHECK_ERROR(system.read_trusted_file(path, 10), ErrorCode::not_found);
  REQUIRE_OK(system.create_file(path, "0123456789"));
  CHECK(*system.read_trusted_file(path, 10) == "0123456789");
  CHECK_ERROR(system.read_trusted_file(path, 9), ErrorCode::damaged);
}

TEST_CASE("a file moves, and takes no other's name", "[system]") {
  auto& system = world().system();
  const auto folder = new_folder();
  const auto other = new_folder();
  CHECK_ERROR(system.move_file(folder + "/a", other + "/a"), ErrorCode::not_found);
  REQUIRE_OK(system.create_file(folder + "/a", "one"));
  REQUIRE_OK(system.create_file(folder + "/b", "two"));
  REQUIRE_OK(system.move_file(folder + "/a", other + "/a"));
  CHECK(content_of(other + "/a") == "one");
  CHECK_ERROR(system.read_file(folder + "/a", 10), ErrorCode::not_found);
  CHECK_ERROR(system.move_file(folder + "/b", other + "/a"), ErrorCode::exists);
  CHECK(content_of(folder + "/b") == "two");
  CHECK(content_of(other + "/a") == "one");
}

TEST_CASE("the end of a file is read", "[system]") {
  auto& system = world().system();
  const auto path = new_folder() + "/file";
  REQUIRE_OK(system.create_file(path, "0123456789"));
  CHECK(*system.read_end_of_file(path, 3) == "789");
  CHECK(*system.read_end_of_file(path, 10) == "0123456789");
  CHECK(*system.read_end_of_file(path, 1000) == "0123456789");
  CHECK_ERROR(system.read_end_of_file(path + "2", 3), ErrorCode::not_found);
}

TEST_CASE("a lock has one holder", "[system]") {
  auto& system = world().system();
  const auto path = new_folder() + "/lock";
  CHECK_ERROR(system.is_locked(path), ErrorCode::not_found);
  REQUIRE_OK(system.create_file(path, ""));
  CHECK_FALSE(*system.is_locked(path));
  auto first = system.lock_file(path);
  REQUIRE_OK(first);
  CHECK(*system.is_locked(path));
  CHECK_ERROR(system.lock_file(path), ErrorCode::busy);
  first->reset();
  CHECK_FALSE(*system.is_locked(path));
  REQUIRE_OK(system.lock_file(path));
}

}  // namespace poolshift::contract
