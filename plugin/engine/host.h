// One libvirtd and one state folder: starts jobs in threads, looks at jobs, takes up those that nobody runs. What the
// C ABI offers, in C++ and without JSON text parsing at its edges.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "engine/report.h"
#include "engine/run.h"
#include "flow/request.h"
#include "flow/validate.h"

namespace poolshift {

struct HostOptions {
  std::string connect_uri = "qemu:///system";
  std::string state_dir = "/var/lib/poolshift";
  std::string overlay_dir;  // empty: the state folder's "overlays"
  std::string guardian;     // program; empty: where it is installed
  std::string ceph_conf;
  std::string log_file;
  std::string log_level = "info";
  bool log_journald = false;
  std::int64_t patience_ms = 60'000;
  bool owns_process = false;  // nobody else in this process uses libvirt
};

// `invalid` names the key.
Result<HostOptions> parse_host_options(const char* text);

// A wake-up that any number of threads and file descriptor pollers may wait for; set once.
class DoneSignal {
 public:
  virtual ~DoneSignal() = default;
  virtual void set() = 0;
  virtual bool wait_ms(int timeout_ms) = 0;  // negative: no limit. Whether it is set.
  virtual int fd() const = 0;
};

// A job that this host's own thread carries out.
class LocalJob {
 public:
  LocalJob(std::string job_id, std::unique_ptr<DoneSignal> done) : id_(std::move(job_id)), done_(std::move(done)) {}

  const std::string& id() const { return id_; }
  DoneSignal& done() { return *done_; }
  std::atomic<bool>& leave() { return leave_; }
  void finish(poolshift_result result, nlohmann::json report);
  // What people asked for before there was a journal to ask it of.
  void ask(const JobControl& wanted);
  JobControl asked();
  // After done() was set.
  poolshift_result result() const { return result_; }
  const nlohmann::json& report() const { return report_; }

 private:
  const std::string id_;
  std::unique_ptr<DoneSignal> done_;
  std::atomic<bool> leave_{false};
  std::mutex mutex_;  // guards asked_
  JobControl asked_;
  poolshift_result result_ = POOLSHIFT_INTERNAL;
  nlohmann::json report_;
};

struct HostPorts {
  std::unique_ptr<Hypervisor> hypervisor;
  std::unique_ptr<Storage> storage;
  std::unique_ptr<System> system;
  std::unique_ptr<DoneSignal> (*make_done_signal)();
};

class Host {
 public:
  Host(HostOptions options, HostPorts ports);
  ~Host();  // leaves the jobs that it runs, and waits until their threads have stopped

  Status open();

  struct Answer {
    poolshift_result result;
    nlohmann::json json;
  };
  Result<Answer> check(const SwapRequest& request);
  std::shared_ptr<LocalJob> start(const SwapRequest& request);
  Result<Answer> look_at(const std::string& job_id);
  // `local` is the job itself when this host runs it, else null.
  Status cancel(const std::string& job_id, LocalJob* local);
  Status set_bandwidth(const std::string& job_id, std::uint64_t bytes_per_s, LocalJob* local);
  Result<nlohmann::json> jobs();
  // The RBD disks of every domain of the host.
  Result<nlohmann::json> disks();
  // Every open job that nobody runs, or the one named.
  Result<Answer> recover(const std::string& job_id);
  Answer doctor();
  // What was done, or with `dry_run` what would be.
  Result<nlohmann::json> rescue(const SwapRequest& request, bool dry_run);

  System& system() { return *ports_.system; }

 private:
  Ports ports() { return {*ports_.hypervisor, *ports_.storage, *ports_.system}; }
  Status ask(Verb verb, const JobControl& wanted, const std::string& job_id, LocalJob* local);
  void carry_out(LocalJob& job, const SwapRequest& request);
  Answer carry_out_checked(LocalJob& job, const SwapRequest& request);
  void find_ceph_conf(JobRecord& record);
  Result<Answer> recover_one(const std::string& job_id);
  Result<std::vector<JobStore::Seen>> seen_jobs(nlohmann::json* damaged);
  // Validates, waiting for libvirt and the cluster as long as `patience_ms` allows.
  Result<Validation> validate_patiently(const SwapRequest& request, const std::atomic<bool>* leave);
  GuardianSetup guardian_setup() const;
  Answer end_of(const Swap& swap, const Status& status) const;

  HostOptions options_;
  HostPorts ports_;
  JobStore store_;
  struct Running {
    std::shared_ptr<LocalJob> job;
    std::thread thread;
  };
  std::mutex mutex_;  // guards running_
  std::vector<Running> running_;
};

}  // namespace poolshift
