// What a monitoring system is told of a host's swaps: Prometheus' text format (version 0.0.4), for the textfile
// collector of node_exporter. poolshift(8) lists the metrics under METRICS.
//
// Counters are sums over jobs that have ended, which never change again: they only fall when journals are removed,
// which a reader of counters takes for a restart. What can fall in the life of a host is a gauge.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "spool/spool.h"

namespace poolshift {

struct HostFacts {
  std::string version;           // of the library
  std::int64_t wall_now_ms = 0;  // since the epoch
  Spool::Counts requests;
};

// `jobs`: the list that poolshift_jobs() gives. Only jobs that have not ended have series of their own, so that their
// number does not grow with the journals. Never fails: what a job lacks, because its journal is damaged or another
// version wrote it, is left out.
std::string metrics_text(const nlohmann::json& jobs, const HostFacts& host);

}  // namespace poolshift
