// swap-watch: runs the command that moves a guest's disk and watches from outside, in the same way whatever the command
// is, what becomes of guest and disk meanwhile.
//
//   swap-watch --connect URI --domain D --disk vda --target POOL/IMAGE --conf CEPH.CONF --qemu-pid PID --report FILE
//              -- COMMAND...
//
// FILE gets one JSON object; times are microseconds, those "at" since 1970, those of the progress since the beginning:
//   {"began_at_us":..., "guest_on_target_at_us":...|null, "ended_at_us":..., "exit_status":0, "peak_rss_bytes":...,
//    "client_read_bytes":..., "client_written_bytes":..., "progress":[[TIME_US, DATA_OBJECTS_IN_THE_TARGETS_POOL],...]}
// The output of COMMAND goes where swap-watch's goes, and its exit status is swap-watch's.
//
// The guest is on the target when its live XML names the target as the disk's source and it runs. Reading the XML takes
// no job on the domain, so that it is never held up by what the command does to it.
//
// Bytes through the client are those that QEMU's and the command's TCP sockets sent and received, as the kernel counts
// them. The OSDs' own counters (op_in_bytes, op_out_bytes; a pool's RD and WR) would be simpler to read but do not tell
// a client from an OSD: a copy_from counts as an operation of the OSD that asks the other, with all of its bytes. Both
// processes speak to nobody but the cluster, so all of their sockets count; what Ceph's protocol adds is included.

#include <libmnl/libmnl.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/program_options.hpp>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <pugixml.hpp>
#include <rados/librados.hpp>
#include <set>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace {

namespace po = boost::program_options;
using nlohmann::ordered_json;
using std::chrono::milliseconds;

constexpr milliseconds kPollInterval{20};
constexpr milliseconds kTrafficInterval{100};
constexpr milliseconds kProgressInterval{250};

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::int64_t now_us() {
  return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

class Guest {
 public:
  Guest(const std::string& uri, const std::string& name, std::string disk)
      : connection_(virConnectOpen(uri.c_str()), &virConnectClose), disk_(std::move(disk)) {
    if (!connection_) fail("cannot connect to '" + uri + "'");
    domain_ = {virDomainLookupByName(connection_.get(), name.c_str()), &virDomainFree};
    if (!domain_) fail("cannot find domain '" + name + "'");
  }

  bool runs_on(const std::string& image) {
    const std::unique_ptr<char, decltype(&std::free)> xml(virDomainGetXMLDesc(domain_.get(), 0), &std::free);
    if (!xml) fail("cannot read the domain's XML");
    pugi::xml_document document;
    document.load_string(xml.get());
    const pugi::xml_node disk =
        document.child("domain").child("devices").find_child([this](const pugi::xml_node& node) {
          return std::string_view(node.name()) == "disk" && node.child("target").attribute("dev").value() == disk_;
        });
    if (disk.child("source").attribute("name").value() != image) return false;
    int state = 0;
    if (virDomainGetState(domain_.get(), &state, nullptr, 0) != 0) fail("cannot ask for the domain's state");
    return state == VIR_DOMAIN_RUNNING;
  }

 private:
  [[noreturn]] static void fail(const std::string& what) { throw Failure(what + ": " + virGetLastErrorMessage()); }

  std::unique_ptr<virConnect, decltype(&virConnectClose)> connection_;
  std::unique_ptr<virDomain, decltype(&virDomainFree)> domain_{nullptr, &virDomainFree};
  std::string disk_;
};

// What the TCP sockets of some processes sent and received since the first look.
class Traffic {
 public:
  Traffic() : netlink_(mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC), &mnl_socket_close) {
    if (!netlink_ || mnl_socket_bind(netlink_.get(), 0, MNL_SOCKET_AUTOPID) != 0) fail();
  }

  void add_process(pid_t pid) { pids_.push_back(pid); }

  // A socket's last bytes are lost if it is closed before the next look.
  void look() {
    const std::set<std::uint32_t> ours = sockets_of_processes();
    std::array<char, 8192> request{};
    nlmsghdr* const header = mnl_nlmsg_put_header(request.data());
    header->nlmsg_type = SOCK_DIAG_BY_FAMILY;
    header->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    auto* const wanted = static_cast<inet_diag_req_v2*>(mnl_nlmsg_put_extra_header(header, sizeof(inet_diag_req_v2)));
    wanted->sdiag_family = AF_INET;
    wanted->sdiag_protocol = IPPROTO_TCP;
    wanted->idiag_ext = 1u << (INET_DIAG_INFO - 1);
    wanted->idiag_states = ~0u;
    if (mnl_socket_sendto(netlink_.get(), header, header->nlmsg_len) < 0) fail();
    std::vector<char> answer(32768);
    Answer context{*this, ours};
    for (int more = MNL_CB_OK; more > MNL_CB_STOP;) {
      const ssize_t size = mnl_socket_recvfrom(netlink_.get(), answer.data(), answer.size());
      if (size < 0) fail();
      more = mnl_cb_run(answer.data(), static_cast<std::size_t>(size), 0, mnl_socket_get_portid(netlink_.get()),
                        &Traffic::on_socket, &context);
      if (more < 0) fail();
    }
    first_look_ = false;
  }

  [[nodiscard]] std::uint64_t received_bytes() const { return sum(&Bytes::received); }
  [[nodiscard]] std::uint64_t sent_bytes() const { return sum(&Bytes::sent); }

 private:
  struct Bytes {
    std::uint64_t received = 0;
    std::uint64_t sent = 0;
  };
  struct Socket {
    Bytes before;  // what it had done before the first look
    Bytes now;
  };
  struct Answer {
    Traffic& traffic;
    const std::set<std::uint32_t>& ours;
  };

  [[noreturn]] static void fail() { throw Failure(std::string("cannot list sockets: ") + std::strerror(errno)); }

  [[nodiscard]] std::set<std::uint32_t> sockets_of_processes() const {
    std::set<std::uint32_t> inodes;
    for (const pid_t pid : pids_) {
      std::error_code gone;  // the process, or one of its files while they are listed
      for (std::filesystem::directory_iterator file("/proc/" + std::to_string(pid) + "/fd", gone), end;
           !gone && file != end; file.increment(gone)) {
        std::error_code closed;
        const std::string target = std::filesystem::read_symlink(file->path(), closed);
        if (target.starts_with("socket:[")) inodes.insert(static_cast<std::uint32_t>(std::stoul(target.substr(8))));
      }
    }
    return inodes;
  }

  static int on_socket(const nlmsghdr* header, void* data) {
    const auto& [traffic, ours] = *static_cast<Answer*>(data);
    const auto* const message = static_cast<const inet_diag_msg*>(mnl_nlmsg_get_payload(header));
    if (!ours.contains(message->idiag_inode)) return MNL_CB_OK;
    const nlattr* attribute = nullptr;
    mnl_attr_parse(header, sizeof(inet_diag_msg), &Traffic::find_info, &attribute);
    if (attribute == nullptr) return MNL_CB_OK;
    tcp_info info{};
    std::memcpy(&info, mnl_attr_get_payload(attribute),
                std::min<std::size_t>(sizeof info, mnl_attr_get_payload_len(attribute)));
    Socket& socket = traffic.sockets_[message->idiag_inode];
    socket.now = {info.tcpi_bytes_received, info.tcpi_bytes_acked};
    if (traffic.first_look_) socket.before = socket.now;
    return MNL_CB_OK;
  }

  static int find_info(const nlattr* attribute, void* found) {
    if (mnl_attr_get_type(attribute) == INET_DIAG_INFO) *static_cast<const nlattr**>(found) = attribute;
    return MNL_CB_OK;
  }

  [[nodiscard]] std::uint64_t sum(std::uint64_t Bytes::*direction) const {
    std::uint64_t bytes = 0;
    for (const auto& [inode, socket] : sockets_) bytes += socket.now.*direction - socket.before.*direction;
    return bytes;
  }

  std::unique_ptr<mnl_socket, decltype(&mnl_socket_close)> netlink_;
  std::vector<pid_t> pids_;
  std::map<std::uint32_t, Socket> sockets_;  // by inode
  bool first_look_ = true;
};

// How many data objects there are in the target's pool, over time: what every way to move a disk makes more of.
class Progress {
 public:
  Progress(const std::string& conf, const std::string& pool) {
    check(cluster_.init("admin"), "librados");
    check(cluster_.conf_read_file(conf.c_str()), "cannot read '" + conf + "'");
    check(cluster_.connect(), "cannot connect to the cluster of '" + conf + "'");
    check(cluster_.ioctx_create(pool.c_str(), pool_), "cannot open pool '" + pool + "'");
  }

  // Looks beside the other looks: under load the OSDs may take their time to answer.
  void begin(std::int64_t began_at_us) {
    began_at_us_ = began_at_us;
    thread_ = std::jthread([this](const std::stop_token& stop) {
      std::mutex mutex;
      std::condition_variable_any wake;
      std::unique_lock lock(mutex);
      do {
        look();
      } while (!wake.wait_for(lock, stop, kProgressInterval, [&stop] { return stop.stop_requested(); }));
    });
  }

  ordered_json end() {
    thread_.request_stop();
    thread_.join();
    look();
    return samples_;
  }

 private:
  static void check(int result, const std::string& what) {
    if (result < 0) throw Failure(what + ": " + std::strerror(-result));
  }

  void look() {
    try {
      std::uint64_t objects = 0;
      for (auto object = pool_.nobjects_begin(); object != pool_.nobjects_end(); ++object) {
        if (object->get_oid().starts_with("rbd_data.")) ++objects;
      }
      samples_.push_back({now_us() - began_at_us_, objects});
    } catch (const std::exception&) {
      // one sample less
    }
  }

  librados::Rados cluster_;
  librados::IoCtx pool_;
  std::int64_t began_at_us_ = 0;
  ordered_json samples_ = ordered_json::array();
  std::jthread thread_;
};

class Command {
 public:
  explicit Command(const std::vector<std::string>& words) {
    std::vector<char*> arguments;
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    pid_ = fork();
    if (pid_ < 0) throw Failure(std::string("cannot fork: ") + std::strerror(errno));
    if (pid_ == 0) {
      execvp(arguments.front(), arguments.data());
      std::cerr << "swap-watch: cannot run '" << words.front() << "': " << std::strerror(errno) << '\n';
      _exit(127);
    }
    // glibc 2.36 has pidfd_open(), but not for C++.
    descriptor_ = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
    if (descriptor_ < 0) throw Failure(std::string("cannot watch the command: ") + std::strerror(errno));
  }
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;
  ~Command() {
    if (descriptor_ >= 0) close(descriptor_);
    if (reaped_) return;
    kill(pid_, SIGTERM);  // who cannot watch leaves nothing running
    waitpid(pid_, nullptr, 0);
  }

  [[nodiscard]] pid_t pid() const { return pid_; }

  // For so long at most.
  [[nodiscard]] bool has_ended(milliseconds patience) const {
    pollfd wait{descriptor_, POLLIN, 0};
    return poll(&wait, 1, static_cast<int>(std::max<std::int64_t>(patience.count(), 0))) > 0;
  }

  struct End {
    int exit_status;
    std::int64_t peak_rss_bytes;
  };
  End reap() {
    int status = 0;
    rusage usage{};
    while (wait4(pid_, &status, 0, &usage) < 0 && errno == EINTR) {
    }
    reaped_ = true;
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), usage.ru_maxrss * 1024};
  }

 private:
  pid_t pid_ = -1;
  int descriptor_ = -1;
  bool reaped_ = false;
};

struct Arguments {
  std::string uri, domain, disk, target, conf, report;
  pid_t qemu_pid = 0;
  std::vector<std::string> command;
};

Arguments parse(int argc, char** argv) {
  Arguments a;
  po::options_description options;
  // clang-format off
  options.add_options()
    ("connect", po::value(&a.uri)->required())
    ("domain", po::value(&a.domain)->required())
    ("disk", po::value(&a.disk)->required())
    ("target", po::value(&a.target)->required())
    ("conf", po::value(&a.conf)->required())
    ("qemu-pid", po::value(&a.qemu_pid)->required())
    ("report", po::value(&a.report)->required())
    ("command", po::value(&a.command)->required());
  // clang-format on
  po::positional_options_description positional;
  positional.add("command", -1);
  po::variables_map given;
  po::store(po::command_line_parser(argc, argv).options(options).positional(positional).run(), given);
  po::notify(given);
  return a;
}

int run(const Arguments& a) {
  Guest guest(a.uri, a.domain, a.disk);
  Progress progress(a.conf, a.target.substr(0, a.target.find('/')));
  Traffic traffic;
  traffic.add_process(a.qemu_pid);
  traffic.look();

  const std::int64_t began_at_us = now_us();
  Command command(a.command);
  traffic.add_process(command.pid());
  progress.begin(began_at_us);
  std::optional<std::int64_t> on_target_at_us;
  auto next_poll = std::chrono::steady_clock::now();
  auto next_traffic = next_poll;
  const auto left = [&next_poll] {
    return std::chrono::ceil<milliseconds>(next_poll - std::chrono::steady_clock::now());
  };
  while (!command.has_ended(left())) {
    if (!on_target_at_us && guest.runs_on(a.target)) on_target_at_us = now_us();
    next_poll = std::max(next_poll + kPollInterval, std::chrono::steady_clock::now());
    if (std::chrono::steady_clock::now() < next_traffic) continue;
    traffic.look();
    next_traffic += kTrafficInterval;
  }
  const std::int64_t ended_at_us = now_us();
  const auto [exit_status, peak_rss_bytes] = command.reap();
  traffic.look();
  if (!on_target_at_us && guest.runs_on(a.target)) on_target_at_us = ended_at_us;

  ordered_json report = {
      {"began_at_us", began_at_us}, {"guest_on_target_at_us", nullptr}, {"ended_at_us", ended_at_us}};
  if (on_target_at_us) report["guest_on_target_at_us"] = *on_target_at_us;
  report["exit_status"] = exit_status;
  report["peak_rss_bytes"] = peak_rss_bytes;
  report["client_read_bytes"] = traffic.received_bytes();
  report["client_written_bytes"] = traffic.sent_bytes();
  report["progress"] = progress.end();
  std::ofstream(a.report) << report.dump() << '\n';
  return exit_status;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(parse(argc, argv));
  } catch (const std::exception& error) {
    std::cerr << "swap-watch: " << error.what() << '\n';
    return 125;
  }
}
