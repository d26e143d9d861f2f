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
    return Document::array(
        {finding("nova", is_named ? "fail" : "warn",
                 fmt::format("what Nova and Cinder know of '{}' is not known: {}", conf, answer.failure().message),
                 fmt::format("'{}' comes with PoolShift's compute driver. {}", kNovaDoctor, answer.failure().advice))});
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
  for (const auto& each : ask_nova(*host, options.nova_conf)) {
    if (text_at(each, "result") == "fail") reply.result = POOLSHIFT_HELD;
    reply.document["findings"].push_back(each);
  }
  const int fd = options.json ? kStderr : kStdout;
  write_text(fd, checks_table(part_at(reply.document, "findings"), "FINDING", columns_of(fd)));
  if (options.json) write_document(reply.document);
  return reply.result;
}

}  // namespace poolshift::cli
