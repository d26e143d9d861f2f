#include "node.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <vector>

#include "base/version.h"
#include "policy.h"
#include "spool/spool.h"

namespace poolshift::cli {

namespace {

constexpr const char* kHooks = "/etc/libvirt/hooks";
constexpr const char* kHookProgram = "poolshift-qemu-hook";
constexpr const char* kSockets = "/run/libvirt";
// The first that is there is the one that libvirt's clients call, and so is the daemon that writes the file.
constexpr std::pair<const char*, const char*> kDaemons[] = {{"virtqemud-sock", "/run/virtqemud.pid"},
                                                            {"libvirt-sock", "/run/libvirtd.pid"}};
constexpr const char* kDaemonNames[] = {"virtqemud", "libvirtd"};
constexpr std::uint64_t kMaxSmallFileBytes = 64 * 1024;
constexpr std::uint64_t kMaxProfilesBytes = 1024 * 1024;
constexpr std::uint32_t kMayRun = 0111;
constexpr std::uint32_t kOthersWrite = 0002;
constexpr std::uint32_t kGroupWrites = 0020;
constexpr const char* kAppArmorEnabled = "/sys/module/apparmor/parameters/enabled";
constexpr const char* kHelperProfile = "/etc/apparmor.d/usr.lib.libvirt.virt-aa-helper";
constexpr const char* kHelperLocal = "/etc/apparmor.d/local/usr.lib.libvirt.virt-aa-helper";
constexpr const char* kSelinuxEnforces = "/sys/fs/selinux/enforce";

bool is_daemon(const ProcessFacts& process) {
  return std::find(std::begin(kDaemonNames), std::end(kDaemonNames), process.name) != std::end(kDaemonNames);
}

class Node {
 public:
  Node(System& system, const NodePlaces& places) : system_(system), places_(places) {}

  Findings look() {
    const bool has_hook = look_at_hook();
    look_at_policy(has_hook);
    look_at_group();
    look_at_spool();
    look_at_apparmor();
    look_at_selinux();
    return std::move(findings_);
  }

 private:
  void add(Finding each) { findings_.push_back(std::move(each)); }

  // --- the hook

  struct Hook {
    std::string path;  // as people see it
    FileFacts facts;
  };

  // Whether there is one.
  bool look_at_hook() {
    const auto daemon = find_daemon();
    // What the daemon sees, should it have mounts of its own.
    root_ = daemon ? fmt::format("/proc/{}/root", daemon->id) : "";
    if (!system_.file_facts(root_ + "/etc")) root_ = "";
    const auto hooks = hooks_of_libvirt();
    const auto ours = std::find_if(hooks.begin(), hooks.end(),
                                   [](const Hook& each) { return each.path.find("poolshift") != std::string::npos; });
    if (ours == hooks.end()) {
      add(finding("hook", Severity::info, fmt::format("poolshift-qemu-hook is not in '{}/qemu.d'", kHooks),
                  "Where domains shall be kept from starting on images that a swap has left, link it there and start "
                  "libvirtd again: poolshift-qemu-hook(8)."));
      return false;
    }
    if (is_sound(*ours) && is_seen(*ours, hooks, daemon)) {
      add(finding("hook", Severity::pass,
                  fmt::format("'{}' was there when {} started", ours->path, daemon ? daemon->name : "libvirtd")));
    }
    return true;
  }

  // All that libvirt would call: not only ours tells whether it calls any.
  std::vector<Hook> hooks_of_libvirt() {
    std::vector<Hook> hooks;
    const auto take = [&](const std::string& path) {
      const auto facts = system_.file_facts(root_ + path);
      if (facts && facts->kind == FileFacts::Kind::regular) hooks.push_back({path, *facts});
    };
    const auto folder = fmt::format("{}/qemu.d", kHooks);
    if (const auto names = system_.list_folder(root_ + folder)) {
      for (const auto& name : *names) take(fmt::format("{}/{}", folder, name));
    }
    take(fmt::format("{}/qemu", kHooks));
    return hooks;
  }

  bool is_sound(const Hook& hook) {
    const auto& facts = hook.facts;
    const bool group_may_write = (facts.mode & kGroupWrites) != 0 && facts.group != 0;
    if (facts.owner != 0 || (facts.mode & kOthersWrite) != 0 || group_may_write) {
      add(finding("hook", Severity::fail,
                  fmt::format("'{}' runs as root, and others may change it: owner {}, mode {:04o}", hook.path,
                              facts.owner, facts.mode),
                  fmt::format("Install it anew; then 'chown root:root' and 'chmod 755'.")));
      return false;
    }
    const auto folder = fmt::format("{}/qemu.d", kHooks);
    if (const auto around = system_.file_facts(root_ + folder);
        around && (around->owner != 0 || (around->mode & kOthersWrite) != 0)) {
      add(finding("hook", Severity::fail,
                  fmt::format("what is in '{}' runs as root, and others may write there: owner {}, mode {:04o}", folder,
                              around->owner, around->mode),
                  fmt::format("Look what is there, then run 'chown root:root {0}' and 'chmod 755 {0}'.", folder)));
      return false;
    }
    if ((facts.mode & kMayRun) == 0) {
      add(finding("hook", Severity::fail, fmt::format("'{}' is not executable: libvirt passes it over", hook.path),
                  fmt::format("Run 'chmod 755 {}' and start libvirtd again.", hook.path)));
      return false;
    }
    const auto expected = fmt::format("{} {}", kHookProgram, kVersion);
    const auto said = system_.program_version(root_ + hook.path);
    if (!said) {
      add(finding("hook", Severity::fail, fmt::format("'{}' cannot be run: {}", hook.path, said.error().message),
                  "Install poolshift-libvirt-hook anew."));
      return false;
    }
    if (*said != expected) {
      add(finding("hook", Severity::warn, fmt::format("'{}' is '{}', and this is {}", hook.path, *said, kVersion),
                  "Install the hook and the command of one version."));
      return false;
    }
    return true;
  }

  // libvirt looks for hooks when its daemon starts; from then on, if there was one, for what is there at each event.
  bool is_seen(const Hook& ours, const std::vector<Hook>& hooks, const std::optional<ProcessFacts>& daemon) {
    if (!daemon) {
      add(finding("hook", Severity::info,
                  fmt::format("'{}' is there; whether libvirtd has seen it is not known for '{}'", ours.path,
                              places_.connect_uri),
                  "It looks for hooks when it starts: start it again if it has run for longer."));
      return false;
    }
    const bool saw_one = std::any_of(hooks.begin(), hooks.end(), [&](const Hook& each) {
      return (each.facts.mode & kMayRun) != 0 && each.facts.changed_wall_ms < daemon->started_wall_ms;
    });
    if (saw_one) return true;
    add(finding("hook", Severity::warn,
                fmt::format("'{}' was put there or changed after {} started, which looks for hooks only when it starts",
                            ours.path, daemon->name),
                fmt::format("Run 'systemctl restart {}'; guests run on.", daemon->name)));
    return false;
  }

  // Of a system's connection to this host.
  std::optional<ProcessFacts> find_daemon() {
    const auto socket = daemon_socket(system_, places_.connect_uri);
    if (socket.empty()) return std::nullopt;
    const auto listener = system_.listener(socket);
    if (!listener) return std::nullopt;
    if (is_daemon(*listener)) return *listener;
    // systemd has opened the socket for it.
    for (const auto& [name, pid_file] : kDaemons) {
      if (!socket.ends_with(name)) continue;
      const auto text = system_.read_file(pid_file, kMaxSmallFileBytes);
      const auto process =
          text ? system_.process(std::strtoll(text->c_str(), nullptr, 10)) : Result<ProcessFacts>(text.error());
      if (process && is_daemon(*process)) return *process;
    }
    return std::nullopt;
  }

  void look_at_policy(bool has_hook) {
    const auto loaded = hook::load_policy(system_, places_.policy_dir);
    for (const auto& error : loaded.errors) {
      add(finding("policy", Severity::warn, fmt::format("a file of the policy is left out: {}", error.message),
                  error.advice));
    }
    const auto rules = loaded.policy.rules.size();
    if (rules != 0 && !has_hook) {
      add(finding(
          "policy", Severity::warn,
          fmt::format("'{}' has {} rules, and without the hook nothing is moved by them", places_.policy_dir, rules),
          "Install the hook: poolshift-qemu-hook(8)."));
    } else if (loaded.errors.empty()) {
      add(finding("policy", Severity::pass, fmt::format("the policy has {} rules", rules)));
    }
  }

  // --- the spool

  void look_at_group() {
    const auto group = system_.shared_group();
    if (!group) {
      add(finding("group", Severity::info, "there is no group 'poolshift': only root can ask for swaps",
                  "Make it with 'groupadd --system poolshift' where others shall."));
      return;
    }
    const auto queue = places_.state_dir + "/spool/queue";
    const auto facts = system_.file_facts(queue);
    if (facts && (facts->group != *group || (facts->mode & kGroupWrites) == 0)) {
      add(finding("group", Severity::warn, fmt::format("the group 'poolshift' may not put requests into '{}'", queue),
                  fmt::format("Run 'chgrp poolshift {0}' and 'chmod 2770 {0}'.", queue)));
      return;
    }
    add(finding("group", Severity::pass, fmt::format("the group 'poolshift' has the number {}", *group)));
  }

  void look_at_spool() {
    Spool spool(system_, places_.state_dir);
    nlohmann::json unreadable = nlohmann::json::array();
    const auto failed = spool.failed(SIZE_MAX, &unreadable);
    if (!failed) {
      add(finding("spool", failed.error().code == ErrorCode::denied ? Severity::info : Severity::warn, failed.error()));
      return;
    }
    // What somebody did not want did not fail.
    const auto is_failure = [](const Finished& each) {
      return each.outcome != "removed" && each.outcome != "cancelled";
    };
    const auto number = std::count_if(failed->begin(), failed->end(), is_failure);
    const auto folder = places_.state_dir + "/spool/failed";
    if (number != 0) {
      const auto& newest = *std::find_if(failed->begin(), failed->end(), is_failure);
      const auto why = newest.error.is_object() ? newest.error.value("message", "") : "";
      add(finding("spool", Severity::warn,
                  fmt::format("{} requests have failed, the last '{}'{}{}", number, newest.request.id,
                              why.empty() ? "" : ": ", why),
                  fmt::format("See 'poolshift queue'; 'poolshift queue --retry REQUEST' asks again. Remove from '{}' "
                              "what is settled.",
                              folder)));
    }
    if (!unreadable.empty()) {
      add(finding(
          "spool", Severity::warn,
          fmt::format("{} files that are no requests were put into the queue", unreadable.size()),
          fmt::format("See 'poolshift queue', and remove them from '{}' when it is known who wrote them.", folder)));
    }
    if (number == 0 && unreadable.empty()) add(finding("spool", Severity::pass, "no request has failed"));
  }

  // --- packaging/README.md has what is needed of these two, and why

  void look_at_apparmor() {
    const auto enabled = system_.read_file(kAppArmorEnabled, kMaxSmallFileBytes);
    if (!enabled || !enabled->starts_with('Y')) return;
    const auto profile = system_.read_file(kHelperProfile, kMaxProfilesBytes);
    if (!profile) {
      add(finding(
          "apparmor", Severity::info,
          fmt::format("AppArmor is in force, and '{}' cannot be read: {}", kHelperProfile, profile.error().message),
          "If virt-aa-helper has a profile elsewhere, see that it may read the overlays."));
      return;
    }
    const auto local = system_.read_file(kHelperLocal, kMaxProfilesBytes);
    const bool all_qcow2 = allows(*profile, "/**.qcow{,2}") || allows(*profile, "/**.qcow2");
    if (all_qcow2 || (local && allows(*local, places_.overlay_dir + "/*.qcow2"))) {
      add(finding("apparmor", Severity::pass, "AppArmor lets virt-aa-helper read the overlays"));
      return;
    }
    add(finding("apparmor", Severity::warn,
                fmt::format("AppArmor keeps virt-aa-helper from reading '{}/*.qcow2': handovers will be undone",
                            places_.overlay_dir),
                fmt::format("Add '{}/*.qcow2 r,' to '{}', then run 'apparmor_parser -r {}'.", places_.overlay_dir,
                            kHelperLocal, kHelperProfile)));
  }

  // Whether a line of it gives the right to read what `pattern` stands for.
  static bool allows(const std::string& profile, const std::string& pattern) {
    for (std::size_t begin = 0; begin < profile.size();) {
      const auto end = std::min(profile.find('\n', begin), profile.size());
      const auto line = profile.substr(begin, end - begin);
      begin = end + 1;
      const auto text = line.find_first_not_of(" \t");
      if (text != std::string::npos && line.compare(text, pattern.size() + 2, pattern + " r") == 0) return true;
    }
    return false;
  }

  void look_at_selinux() {
    const auto enforces = system_.read_file(kSelinuxEnforces, kMaxSmallFileBytes);
    if (!enforces) return;
    const auto facts = system_.file_facts(places_.overlay_dir);
    if (!facts) return;  // the library says so
    if (facts->selinux_label.find(":virt_image_t:") != std::string::npos) {
      add(finding("selinux", Severity::pass, "SELinux lets QEMU write to the overlays"));
      return;
    }
    const bool is_in_force = enforces->starts_with('1');
    add(finding("selinux", is_in_force ? Severity::warn : Severity::info,
                fmt::format("SELinux ({}) has the label '{}' for '{}', not virt_image_t",
                            is_in_force ? "enforcing: handovers will be undone" : "permissive", facts->selinux_label,
                            places_.overlay_dir),
                fmt::format("Run 'semanage fcontext -a -t virt_image_t \"{0}(/.*)?\"' and 'restorecon -R {0}'.",
                            places_.overlay_dir)));
  }

  System& system_;
  const NodePlaces& places_;
  std::string root_;
  Findings findings_;
};

}  // namespace

std::string daemon_socket(System& system, const std::string& connect_uri) {
  const auto query_at = std::min(connect_uri.find('?'), connect_uri.size());
  const auto place = connect_uri.substr(0, query_at);
  if (place != "qemu:///system" && place != "qemu+unix:///system") return "";
  constexpr std::string_view kSocket = "socket=";
  for (std::size_t begin = query_at + 1; begin < connect_uri.size();) {
    const auto end = std::min(connect_uri.find('&', begin), connect_uri.size());
    if (connect_uri.compare(begin, kSocket.size(), kSocket) == 0) {
      return connect_uri.substr(begin + kSocket.size(), end - begin - kSocket.size());
    }
    begin = end + 1;
  }
  for (const auto& daemon : kDaemons) {
    const auto path = fmt::format("{}/{}", kSockets, daemon.first);
    if (system.file_facts(path)) return path;
  }
  return "";
}

Findings look_around(System& system, const NodePlaces& places) { return Node(system, places).look(); }

}  // namespace poolshift::cli
