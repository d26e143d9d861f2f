// The command line, checked. What the library checks anyway (names of images, of disks) is left to it.
#pragma once

#include <boost/program_options/options_description.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "document.h"
#include "outcome.h"
#include "spool/schedule.h"

namespace poolshift::cli {

enum class ProgressChoice { automatic, bar, json, none };

struct HostOptions {
  std::string connect;
  std::string state_dir;
  std::string ceph_conf;
  std::string log_file;
  std::string overlay_dir;  // empty: the library's default
  std::string guardian;     // likewise
  bool verbose = false;
  std::optional<std::uint64_t> patience_s;
  std::string as_given;  // " --state-dir /x": what a command that we advise has to be given as well
};

struct RequestOptions {
  std::string domain;
  std::string disk;
  std::string target;
  std::string source;  // empty: whatever the disk is on
  bool create = false;
  std::string engine;
  std::string hydrate;
  std::string source_after;
  std::optional<std::uint64_t> max_pause_ms;
};

struct DrainOptions {
  std::string from;   // pool
  std::string to;     // POOL[/NAMESPACE]
  std::string match;  // pattern for images' names; empty: all
  std::string engine;
  std::string source_after;
  bool openstack = false;
};

struct Options {
  HostOptions host;
  RequestOptions request;
  DrainOptions drain;
  WorkerLimits worker;         // its bandwidth is `bandwidth_bytes_per_s` below
  std::string remove_request;  // empty: none
  std::string retry_request;   // likewise
  bool once = false;
  std::optional<std::uint64_t> bandwidth_bytes_per_s;
  ProgressChoice progress = ProgressChoice::automatic;
  std::string nova_conf;           // of `doctor`; empty: where Nova has it
  std::string job;                 // empty: none was named
  std::vector<std::string> words;  // what stands beside the options
  std::string policy_dir;
  std::string metrics_file;  // empty: node_exporter's
  bool write = false;
  bool help = false;
  bool json = false;
  bool dry_run = false;
  bool watch = false;
};

enum class JobArgument { none, optional, required, words };  // words: any, in Options::words

// One of the subcommands: poolshift NAME ...
struct Command {
  std::string_view name;
  std::string_view synopsis;  // what follows the name
  std::string_view summary;   // for the list of commands
  std::string_view details;   // for its own help
  boost::program_options::options_description (*own_options)();
  JobArgument job;
  bool needs_request;
  int (*run)(const Options&);
  bool needs_pools = false;  // --from and --to are pools
};

boost::program_options::options_description request_options();
boost::program_options::options_description status_options();
boost::program_options::options_description set_options();
boost::program_options::options_description worker_options();
boost::program_options::options_description drain_options();
boost::program_options::options_description metrics_options();
boost::program_options::options_description queue_options();
boost::program_options::options_description policy_options();
boost::program_options::options_description json_options();
boost::program_options::options_description doctor_options();

std::string help_of(const Command& command);

// With what the configuration file has, unless help is asked for. Every failure is a usage error.
Outcome<Options> parse_options(const Command& command, const std::vector<std::string>& arguments);

Document host_document(const HostOptions& options);
Document request_document(const Options& options);

}  // namespace poolshift::cli
