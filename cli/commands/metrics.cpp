#include "spool/metrics.h"

#include <fmt/core.h>
#include <unistd.h>

#include <filesystem>

#include "adapters/posix_system.h"
#include "commands/commands.h"
#include "library.h"
#include "output.h"
#include "spool_swaps.h"
#include "work.h"

namespace poolshift::cli {

namespace {

constexpr const char* kName = "poolshift metrics";
// Where Debian's and Fedora's node_exporter look for such files.
constexpr const char* kDefaultFile = "/var/lib/prometheus/node-exporter/poolshift.prom";

Failure no_folder(const std::string& file) {
  return {POOLSHIFT_REFUSED, "not_found", fmt::format("there is no folder for '{}'", file),
          "Make it, or name the file that node_exporter's textfile collector reads with '--metrics-file'."};
}

}  // namespace

int run_metrics(const Options& options) {
  const bool is_named = !options.metrics_file.empty();
  const std::string file = is_named ? options.metrics_file : kDefaultFile;
  if (options.write) {
    std::error_code ignored;
    if (!std::filesystem::is_directory(std::filesystem::path(file).parent_path(), ignored)) {
      // Nobody asked for the default file: a node without node_exporter is in order.
      if (!is_named) return POOLSHIFT_OK;
      return report_failure(kName, no_folder(file), false);
    }
  }
  auto host = Host::open(host_document(options.host));
  if (!host) return report_failure(kName, host.failure(), false);
  const auto reply = host->jobs();
  if (!reply.ok()) return report_failure(kName, reply.failure, false);
  const auto version = library_version();
  if (!version) return report_failure(kName, version.failure(), false);
  const auto system = make_posix_system();
  const auto requests = Spool(*system, options.host.state_dir).counts();
  if (!requests) return report_failure(kName, failure_of(requests.error()), false);
  const auto text =
      metrics_text(unordered(part_at(reply.document, "jobs")), {*version, system->wall_clock_ms(), *requests});
  if (!options.write) {
    write_text(kStdout, text);
    return POOLSHIFT_OK;
  }
  const auto written = system->replace_public_file(file, text);
  if (!written) return report_failure(kName, failure_of(written.error()), false);
  return POOLSHIFT_OK;
}

}  // namespace poolshift::cli
