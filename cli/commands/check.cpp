#include "commands/commands.h"
#include "library.h"
#include "output.h"
#include "summary.h"

namespace poolshift::cli {

// Also `swap --dry-run`.
int run_check(const Options& options) {
  auto host = Host::open(host_document(options.host));
  if (!host) return report_failure("poolshift check", host.failure(), options.json);
  const auto reply = host->check(request_document(options));
  if (reply.document.is_null()) return report_failure("poolshift check", reply.failure, options.json);
  const int fd = options.json ? kStderr : kStdout;
  write_text(fd, check_text(reply.document, columns_of(fd)));
  if (options.json) write_document(reply.document);
  return reply.result;
}

}  // namespace poolshift::cli
