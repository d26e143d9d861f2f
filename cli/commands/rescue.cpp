#include <fmt/core.h>

#include "commands/commands.h"
#include "commands/swap.h"
#include "library.h"
#include "output.h"
#include "signals.h"

namespace poolshift::cli {

namespace {

constexpr const char* kName = "poolshift rescue";

std::string words_for(const Document& report) {
  const bool done = true_at(report, "done");
  std::string text = fmt::format("  the guest writes to {}\n", text_at(report, "source"));
  if (const auto id = text_at(report, "restores"); !id.empty()) {
    text += fmt::format("  {} from the trash, where it is '{}'\n", done ? "restored" : "would be restored", id);
  }
  if (const auto aside = text_at(report, "sets_aside"); !aside.empty()) {
    text += fmt::format("  {} {} as {}\n", text_at(report, "target"), done ? "is kept" : "would be kept", aside);
  }
  if (true_at(report, "creates_target")) {
    text += fmt::format("  an empty {} {}\n", text_at(report, "target"), done ? "was made" : "would be made");
  }
  return text;
}

}  // namespace

int run_rescue(const Options& options) {
  if (options.request.create) {
    return report_failure(
        kName, usage_error("'--create' has no meaning here", "Leave it out: the target is made when it is needed."),
        options.json);
  }
  SignalWatch signals;
  auto host = Host::open(host_document(options.host));
  if (!host) return report_failure(kName, host.failure(), options.json);
  const auto reply = host->rescue(request_document(options), options.dry_run);
  if (!reply.ok()) return report_failure(kName, reply.failure, options.json);
  write_text(options.json ? kStderr : kStdout, words_for(reply.document));
  if (options.dry_run) {
    if (options.json) write_document(reply.document);
    return reply.result;
  }
  // Back to where it was: whoever still names it must find nothing rather than old data.
  Options swap = options;
  swap.request.source_after = "trash";
  return swap_and_follow(kName, swap, *host, signals);
}

}  // namespace poolshift::cli
