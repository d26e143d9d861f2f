#include "commands/commands.h"
#include "library.h"
#include "output.h"
#include "table.h"

namespace poolshift::cli {

int run_doctor(const Options& options) {
  auto host = Host::open(host_document(options.host));
  if (!host) return report_failure("poolshift doctor", host.failure(), options.json);
  const auto reply = host->doctor();
  if (reply.document.is_null()) return report_failure("poolshift doctor", reply.failure, options.json);
  const int fd = options.json ? kStderr : kStdout;
  write_text(fd, checks_table(part_at(reply.document, "findings"), "FINDING", columns_of(fd)));
  if (options.json) write_document(reply.document);
  return reply.result;
}

}  // namespace poolshift::cli
