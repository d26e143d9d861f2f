// What the doctor finds wrong around the library.
#include <catch2/catch.hpp>

#include "base/version.h"
#include "fakes/fake_world.h"
#include "findings.h"
#include "node.h"
#include "spool/spool.h"

namespace poolshift {

using cli::daemon_socket;
using cli::look_around;
using cli::NodePlaces;
using fakes::FakeWorld;

namespace {

constexpr const char* kSocket = "/run/libvirt/libvirt-sock";
constexpr const char* kHook = "/etc/libvirt/hooks/qemu.d/50-poolshift";
constexpr std::int64_t kDaemonStartedMs = 1'000'000;
constexpr const char* kHelper = "/etc/apparmor.d/usr.lib.libvirt.virt-aa-helper";
constexpr const char* kHelperLocal = "/etc/apparmor.d/local/usr.lib.libvirt.virt-aa-helper";
constexpr const char* kRule = R"({"schema":1,"rules":[{"name":"one","match":{"pool":"hdd"},"swap":{"pool":"ssd"}}]})";

// A node on which all is well, with the hook.
struct Around {
  Around() {
    world.files[kSocket];
    world.listeners[kSocket] = 42;
    world.processes[42] = {42, "libvirtd", kDaemonStartedMs};
    install(kHook, kDaemonStartedMs - 1);
  }

  void install(const std::string& path, std::int64_t changed_ms) {
    world.files[path];
    world.facts[path] = {FileFacts::Kind::regular, 0, 0, 0755, changed_ms, ""};
    world.program_versions[path] = std::string("poolshift-qemu-hook ") + kVersion;
  }

  Findings look() {
    const auto system = world.system();
    return look_around(*system, places);
  }

  FakeWorld world;
  NodePlaces places{"qemu:///system", "/state", "/state/overlays", "/policy"};
};

void finish(FakeWorld& world, const std::string& disk, const std::string& outcome) {
  const auto system = world.system();
  Spool spool(*system, "/state");
  SpoolRequest request;
  request.domain_uuid = "6f1d0c3a-2f0e-4b8e-9a53-0d8c3c2f7a11";
  request.domain_name = "web";
  request.disk = disk;
  request.source = {"hdd", "", "web"};
  request.swap = {{"target", "ssd/web"}};
  const auto id = spool.submit(request);
  REQUIRE(id);
  const auto waiting = spool.waiting();
  REQUIRE(waiting);
  REQUIRE(spool.claim(waiting->front()));
  const nlohmann::json error = {{"code", "refused"}, {"message", "no room in pool ssd"}, {"advice", "Make room."}};
  REQUIRE(spool.finish({waiting->front(), 42, outcome, 1, nullptr, error}));
}

}  // namespace

TEST_CASE("around a node on which all is well nothing is said to be wrong") {
  Around around;
  for (const auto& each : around.look()) {
    INFO(each.name << ": " << each.found);
    CHECK(each.severity == Severity::pass);
  }
}

TEST_CASE("the daemon that answers a URI is the one whose socket libvirt calls") {
  FakeWorld world;
  const auto system = world.system();
  CHECK(daemon_socket(*system, "qemu:///system").empty());
  world.files[kSocket];
  CHECK(daemon_socket(*system, "qemu:///system") == kSocket);
  world.files["/run/libvirt/virtqemud-sock"];
  CHECK(daemon_socket(*system, "qemu:///system") == "/run/libvirt/virtqemud-sock");
  CHECK(daemon_socket(*system, "qemu+unix:///system?mode=legacy&socket=/x/y&a=b") == "/x/y");
  for (const auto* uri : {"qemu:///session", "qemu+ssh://host/system", "qemu+tcp://host/system", "test:///default"}) {
    CHECK(daemon_socket(*system, uri).empty());
  }
}

TEST_CASE("that there is no hook is information") {
  Around around;
  around.world.files.erase(kHook);
  around.world.facts.erase(kHook);
  CHECK(only(around.look(), "hook").severity == Severity::info);
}

TEST_CASE("a hook that came after libvirtd had started is not seen by it") {
  Around around;
  around.install(kHook, kDaemonStartedMs + 1);
  const auto found = only(around.look(), "hook");
  CHECK(found.severity == Severity::warn);
  CHECK(found.advice.find("systemctl restart libvirtd") != std::string::npos);
  // Where it had any it looks for them at each event.
  around.install("/etc/libvirt/hooks/qemu.d/10-others", kDaemonStartedMs - 1);
  CHECK(only(around.look(), "hook").severity == Severity::pass);
  around.world.facts["/etc/libvirt/hooks/qemu.d/10-others"].mode = 0644;
  CHECK(only(around.look(), "hook").severity == Severity::warn);
}

TEST_CASE("a libvirtd with mounts of its own is looked at by its own") {
  Around around;
  around.world.files["/proc/42/root/etc/libvirt/libvirtd.conf"];
  CHECK(only(around.look(), "hook").severity == Severity::info);
  around.install(std::string("/proc/42/root") + kHook, kDaemonStartedMs - 1);
  const auto found = only(around.look(), "hook");
  CHECK(found.severity == Severity::pass);
  CHECK(says(found, std::string("'") + kHook));
}

TEST_CASE("a daemon whose socket systemd has opened is found by its file") {
  Around around;
  around.world.processes[1] = {1, "systemd", 5};
  around.world.listeners[kSocket] = 1;
  CHECK(only(around.look(), "hook").severity == Severity::info);
  around.world.files["/run/libvirtd.pid"].content = "42\n";
  CHECK(only(around.look(), "hook").severity == Severity::pass);
  around.install(kHook, kDaemonStartedMs + 1);
  CHECK(only(around.look(), "hook").severity == Severity::warn);
  around.world.processes[42].name = "cat";  // the number is somebody else's by now
  CHECK(only(around.look(), "hook").severity == Severity::info);
}

TEST_CASE("whether a libvirtd elsewhere has seen the hook is not guessed") {
  Around around;
  around.places.connect_uri = "qemu+ssh://elsewhere/system";
  const auto found = only(around.look(), "hook");
  CHECK(found.severity == Severity::info);
  CHECK(says(found, "is not known"));
}

TEST_CASE("a hook that others may change is a failure") {
  for (const auto& facts : {FileFacts{FileFacts::Kind::regular, 1000, 0, 0755, 0, ""},
                            FileFacts{FileFacts::Kind::regular, 0, 0, 0757, 0, ""},
                            FileFacts{FileFacts::Kind::regular, 0, 100, 0775, 0, ""}}) {
    Around around;
    around.world.facts[kHook] = facts;
    const auto found = only(around.look(), "hook");
    CHECK(found.severity == Severity::fail);
    CHECK(says(found, "others may change it"));
  }
  for (const auto& facts : {FileFacts{FileFacts::Kind::folder, 0, 0, 0757, 0, ""},
                            FileFacts{FileFacts::Kind::folder, 1000, 0, 0755, 0, ""}}) {
    Around around;
    around.world.facts["/etc/libvirt/hooks/qemu.d"] = facts;
    const auto found = only(around.look(), "hook");
    CHECK(found.severity == Severity::fail);
    CHECK(says(found, "others may write there"));
  }
}

TEST_CASE("a hook that does not run is a failure, one of another version a warning") {
  Around around;
  around.world.program_versions[kHook] = "poolshift-qemu-hook 0.0.1";
  auto found = only(around.look(), "hook");
  CHECK(found.severity == Severity::warn);
  CHECK(says(found, "0.0.1"));
  around.world.program_versions.erase(kHook);
  CHECK(only(around.look(), "hook").severity == Severity::fail);
  around.install(kHook, 0);
  around.world.facts[kHook].mode = 0644;
  found = only(around.look(), "hook");
  CHECK(found.severity == Severity::fail);
  CHECK(says(found, "is not executable"));
}

TEST_CASE("rules without a hook and files that are left out are warnings") {
  Around around;
  around.world.files["/policy/10.json"].content = kRule;
  CHECK(only(around.look(), "policy").severity == Severity::pass);
  around.world.files["/policy/20.json"].content = "{";
  around.world.files["/policy/30.json"].content = kRule;  // its name is taken
  auto found = named(around.look(), "policy");
  REQUIRE(found.size() == 2);
  CHECK(found[0].severity == Severity::warn);
  CHECK(says(found[0], "/policy/20.json"));
  CHECK(says(found[1], "/policy/30.json"));
  around.world.files.erase("/policy/20.json");
  around.world.files.erase("/policy/30.json");
  around.world.files.erase(kHook);
  around.world.facts.erase(kHook);
  found = named(around.look(), "policy");
  REQUIRE(found.size() == 1);
  CHECK(found[0].severity == Severity::warn);
  CHECK(says(found[0], "'/policy' has 1 rules"));
}

TEST_CASE("the group that may ask for swaps can") {
  Around around;
  around.world.facts["/state/spool/queue"] = {FileFacts::Kind::folder, 0, 123, 02770, 0, ""};
  CHECK(only(around.look(), "group").severity == Severity::pass);
  around.world.facts["/state/spool/queue"].mode = 0750;
  CHECK(only(around.look(), "group").severity == Severity::warn);
  around.world.facts["/state/spool/queue"] = {FileFacts::Kind::folder, 0, 0, 02770, 0, ""};
  CHECK(only(around.look(), "group").severity == Severity::warn);
  around.world.shared_group.reset();
  CHECK(only(around.look(), "group").severity == Severity::info);
}

TEST_CASE("requests that have failed are a warning, those that nobody wanted are not") {
  Around around;
  finish(around.world, "vda", "done");
  finish(around.world, "vdb", "cancelled");
  CHECK(only(around.look(), "spool").severity == Severity::pass);
  finish(around.world, "vdc", "refused");
  const auto found = only(around.look(), "spool");
  CHECK(found.severity == Severity::warn);
  CHECK(says(found, "1 requests have failed"));
  CHECK(says(found, "no room in pool ssd"));
}

TEST_CASE("files in the queue that were no requests are a warning") {
  Around around;
  around.world.files["/state/spool/failed/bad-1"].content = "rubbish";
  const auto found = only(around.look(), "spool");
  CHECK(found.severity == Severity::warn);
  CHECK(says(found, "1 files that are no requests"));
}

TEST_CASE("AppArmor lets the overlays be read, or is said not to") {
  Around around;
  auto& files = around.world.files;
  CHECK(named(around.look(), "apparmor").empty());
  files["/sys/module/apparmor/parameters/enabled"].content = "N\n";
  CHECK(named(around.look(), "apparmor").empty());
  files["/sys/module/apparmor/parameters/enabled"].content = "Y\n";
  CHECK(only(around.look(), "apparmor").severity == Severity::info);
  files[kHelper].content = "profile virt-aa-helper {\n  /**.img r,\n  # /**.qcow{,2} r,\n}\n";
  CHECK(only(around.look(), "apparmor").severity == Severity::warn);
  files[kHelperLocal].content = "/state/overlays/*.qcow2 r,\n";
  CHECK(only(around.look(), "apparmor").severity == Severity::pass);
  files[kHelperLocal].content = "/elsewhere/*.qcow2 r,\n";
  CHECK(only(around.look(), "apparmor").severity == Severity::warn);
  files[kHelper].content = "profile virt-aa-helper {\n  /**.qcow{,2} r,\n}\n";
  CHECK(only(around.look(), "apparmor").severity == Severity::pass);
}

TEST_CASE("SELinux has the label for the overlays, or is said not to") {
  Around around;
  auto& world = around.world;
  world.facts["/state/overlays"] = {FileFacts::Kind::folder, 0, 0, 0771, 0, "system_u:object_r:var_lib_t:s0"};
  CHECK(named(around.look(), "selinux").empty());
  world.files["/sys/fs/selinux/enforce"].content = "1";
  const auto found = only(around.look(), "selinux");
  CHECK(found.severity == Severity::warn);
  CHECK(says(found, "var_lib_t"));
  world.files["/sys/fs/selinux/enforce"].content = "0";
  CHECK(only(around.look(), "selinux").severity == Severity::info);
  world.facts["/state/overlays"].selinux_label = "system_u:object_r:virt_image_t:s0";
  CHECK(only(around.look(), "selinux").severity == Severity::pass);
}

}  // namespace poolshift
