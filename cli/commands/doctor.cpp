#include <fmt/core.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "adapters/posix_system.h"
#include "child.h"
#include "commands/commands.h"
#include "library.h"
#include "node.h"
#include "output.h"
#include "table.h"
#include "text.h"

namespace poolshift::cli {

namespace {

constexpr const char* kNovaConf = "/etc/nova/nova.conf";
constexpr const char* kNovaDoctor = "poolshift-nova-doctor";
constexpr int kNovaTimeoutS = 60;

constexpr const char* kWorstFirst[] = {"fail", "warn", "info", "pass"};

Document one_finding(Severity severity, std::string found, std::string advice) {
  return Document::array({to_json<Document>(finding("nova", severity, std::move(found), std::move(advice)))});
}

// What only Nova and Cinder know is asked by a program that comes with the compute driver. Gives findings. A node may
// have a nova.conf and no use for that driver, so only who names the file is told that the program fails.
Document ask_nova(Host& host, const std::string& named_conf) {
  const bool is_named = !named_conf.empty();
  const auto conf = is_named ? named_conf : kNovaConf;
  if (!is_named && access(kNovaConf, F_OK) != 0) return Document::array();
  const auto listed = host.disks();
  // That libvirtd does not answer is a finding already.
  const Document disks = listed.ok() ? part_at(listed.document, "disks") : Document::array();
  const auto answer =
      output_of({kNovaDoctor, "--config-file", conf}, to_line({{"schema", 1}, {"disks", disks}}), kNovaTimeoutS);
  if (!answer) {
    return one_finding(
        is_named ? Severity::fail : Severity::info,
        fmt::format("what Nova and Cinder know of '{}' is not known: {}", conf, answer.failure().message),
        fmt::format("'{}' comes with PoolShift's compute driver. {}", kNovaDoctor, answer.failure().advice));
  }
  const auto document = Document::parse(*answer, nullptr, false);
  const auto& findings = part_at(document, "findings");
  if (!findings.is_array()) {
    return one_finding(Severity::fail, fmt::format("'{}' gave no findings", kNovaDoctor),
                       "Is it of the same version as this command? Run it by hand to see what it says.");
  }
  return findings;
}

Findings look_around_here(const Options& options) {
  const auto& host = options.host;
  const auto system = make_posix_system();
  const auto overlay_dir = host.overlay_dir.empty() ? host.state_dir + "/overlays" : host.overlay_dir;
  return look_around(*system, {host.connect, host.state_dir, overlay_dir, options.policy_dir});
}

// What a newer library may call otherwise is shown all the same.
std::string severity_of(const Document& each) {
  const auto result = text_at(each, "result");
  const bool is_known = std::find(std::begin(kWorstFirst), std::end(kWorstFirst), result) != std::end(kWorstFirst);
  return is_known ? result : "info";
}

std::vector<Document> of_severity(const Document& findings, const std::string& severity) {
  std::vector<Document> chosen;
  for (const auto& each : findings) {
    if (severity_of(each) == severity) chosen.push_back(each);
  }
  return chosen;
}

// "FAIL 2 (cluster, job), warn 1 (hook), info 3, pass 9"
std::string summary_line(const Document& findings) {
  std::vector<std::string> parts;
  for (const std::string severity : kWorstFirst) {
    const auto chosen = of_severity(findings, severity);
    auto part = fmt::format("{} {}", severity == "fail" ? "FAIL" : severity, chosen.size());
    if (!chosen.empty() && (severity == "fail" || severity == "warn")) {
      std::vector<std::string> names;
      for (const auto& each : chosen) names.push_back(printable(text_at(each, "name")));
      names.erase(std::unique(names.begin(), names.end()), names.end());
      part += fmt::format(" ({})", fmt::join(names, ", "));
    }
    parts.push_back(part);
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

}  // namespace

int run_doctor(const Options& options) {
  auto host = Host::open(host_document(options.host));
  if (!host) return report_failure("poolshift doctor", host.failure(), options.json);
  auto reply = host->doctor();
  if (reply.document.is_null()) return report_failure("poolshift doctor", reply.failure, options.json);
  Document found = part_at(reply.document, "findings");
  for (const auto& each : look_around_here(options)) found.push_back(to_json<Document>(each));
  for (const auto& each : ask_nova(*host, options.nova_conf)) found.push_back(each);

  Document document = {{"schema", 1}, {"summary", Document::object()}, {"findings", Document::array()}};
  for (const std::string severity : kWorstFirst) {
    const auto chosen = of_severity(found, severity);
    document["summary"][severity] = chosen.size();
    for (const auto& each : chosen) document["findings"].push_back(each);
  }
  const auto& findings = document["findings"];
  const int fd = options.json ? kStderr : kStdout;
  write_text(fd, checks_table(findings, "FINDING", columns_of(fd)));
  write_line(fd, summary_line(findings));
  if (options.json) write_document(document);
  if (document["summary"]["fail"] != 0) return POOLSHIFT_HELD;
  return document["summary"]["warn"] != 0 ? kExitWarnings : POOLSHIFT_OK;
}

}  // namespace poolshift::cli
