// One swap being carried out: what the steps in flow/ work on.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "engine/job_record.h"
#include "flow/guard.h"
#include "journal/job_store.h"
#include "ports/hypervisor.h"
#include "ports/storage.h"
#include "ports/system.h"

namespace poolshift {

struct Ports {
  Hypervisor& hypervisor;
  Storage& storage;
  System& system;
};

// With the key of the libvirt secret that `access` names, if it names one.
Result<std::unique_ptr<Cluster>> connect_cluster(Ports ports, const ClusterAccess& access);

// How a guardian is started.
struct GuardianSetup {
  std::string program = "poolshift-guardian";
  std::string connect_uri;
  std::string log_file;
  bool log_journald = false;
};

class Swap {
 public:
  Swap(Ports ports, JobStore& store, JournalWriter journal, JobRecord record, const std::atomic<bool>& leave);

  Ports ports;
  JobRecord record;

  // Makes the record durable as it is now. Called before every act that the record announces.
  Status save();

  // Connected on first use; the same connection when both images are reached the same way.
  Result<Cluster*> source_cluster();
  Result<Cluster*> target_cluster();
  // Gives up the connections; the next use makes new ones.
  void disconnect();

  // What a step calls between two looks at a world that answers: sleeps, then fails with `left` when the caller asked
  // us to stop following.
  Status wait_ms(std::int64_t duration_ms);
  // How often a step has waited so: grows only while the world answers.
  std::uint64_t waits() const { return waits_; }
  bool was_left() const { return leave_; }

  // Bytes per second: as asked for at the start, or since (poolshift set). 0: no limit.
  Result<std::uint64_t> wanted_bandwidth();
  // `cancelled` when somebody asked for it.
  Status stop_if_cancelled();

  // Shown by `poolshift status`; may be lost.
  void show_progress(const Progress& progress);

  double seconds_since(std::int64_t monotonic_ms) const;

  // The guest's writes before the copy, when they are known: to choose how to copy.
  struct CountersBefore {
    DiskCounters counters;
    std::int64_t monotonic_ms = 0;
  };
  std::optional<CountersBefore> counters_before;
  std::optional<DiskCounters> counters_at_pause;

  // --- of a handover's pause (flow/pause.cpp)
  GuardianSetup guardian_setup;
  // Waits for its turn: one guest of this host is suspended at a time.
  Status take_pause_lock();
  // Starts the guardian and has it count from now on.
  Status begin_pause(const GuardOrder& order);
  // `failed` when the guardian has stepped in.
  Status still_ours() const;
  // The guest runs again.
  void end_pause();
  // What was asked for before the job was left has been done.
  Status forget_cancel() { return store_.forget_cancel(record.job_id); }

 private:
  Result<Cluster*> connect(const ClusterAccess& access, std::unique_ptr<Cluster>& slot);

  JobStore& store_;
  JournalWriter journal_;
  const std::atomic<bool>& leave_;
  std::unique_ptr<Cluster> source_cluster_;
  std::unique_ptr<Cluster> target_cluster_;
  std::int64_t progress_shown_ms_ = 0;
  std::string progress_step_;
  std::uint64_t waits_ = 0;
  std::unique_ptr<FileLock> pause_lock_;
  std::unique_ptr<Guardian> guardian_;
  std::int64_t pause_began_ms_ = -1;
};

}  // namespace poolshift
