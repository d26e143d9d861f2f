#include <fmt/core.h>
#include <unistd.h>

#include "child.h"
#include "commands/commands.h"
#include "library.h"
#include "output.h"
#include "table.h"

namespace poolshift::cli {

namespace {

constexpr const char* kNovaConf = "/etc/nova/nova.conf";
constexpr const char* kNovaDoctor = "poolshift-nova-doctor";
constexpr int kNovaTimeoutS = 60;

Document finding(const char* name, const char* result, const std::string& found, const std::string& advice) {
  return {{"name", name}, {"result", result}, {"found", found}, {"do", advice}};
}

// What only Nova and Cinder know is asked by a program that comes with the compute driver. Gives findings.
Document ask_nova(const std::string& nova_conf, const Document& disks) {
  const auto answer =
      output_of({kNovaDoctor, "--config-file", nova_conf}, to_line({{"schema", 1}, {"disks", disks}}), kNovaTimeoutS);
  if (!answer) {
    return Document::array({finding(
        "nova", "fail", fmt::format("'{}' is there, but {}", nova_conf, answer.failure().message),
        fmt::format("'{}' comes with PoolShift's compute driver for Nova. {}", kNovaDoctor, answer.failure().advice))});
  }
  const auto document = Document::parse(*answer, nullptr, false);
  const auto& findings = part_at(document, "findings");
  if (!findings.is_array()) {
    return Document::array({finding("nova", "fail", fmt::format("'{}' gave no findings", kNovaDoctor),
                                    "Is it of the same version as this command? Run it by hand to see what it says.")});
  }
  return findings;
}

}  // namespace

int run_doctor(const Options& options) {
  auto host = Host::open(host_document(options.host));
  if (!host) return report_failure("poolshift doctor", host.failure(), options.json);
  auto reply = host->doctor();
  if (reply.document.is_null()) return report_failure("poolshift doctor", reply.failure, options.json);
  const bool has_nova = !options.nova_conf.empty() || access(kNovaConf, F_OK) == 0;
  if (has_nova) {
    const auto& nova_conf = options.nova_conf.empty() ? kNovaConf : options.nova_conf;
    for (const auto& each : ask_nova(nova_conf, part_at(reply.document, "disks"))) {
      if (text_at(each, "result") == "fail") reply.result = POOLSHIFT_HELD;
      reply.document["findings"].push_back(each);
    }
  }
  const int fd = options.json ? kStderr : kStdout;
  write_text(fd, checks_table(part_at(reply.document, "findings"), "FINDING", columns_of(fd)));
  if (options.json) write_document(reply.document);
  return reply.result;
}

}  // namespace poolshift::cli
