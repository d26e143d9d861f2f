#include "policy.h"

#include <fmt/core.h>

#include <cstdlib>

#include "adapters/posix_system.h"
#include "commands/commands.h"
#include "output.h"
#include "text.h"

namespace poolshift::cli {

namespace {

constexpr const char* kName = "poolshift policy";

Document document_of(const hook::LoadedPolicy& loaded) {
  Document document = {{"schema", 1}, {"rules", Document::array()}, {"errors", Document::array()}};
  for (const auto& rule : loaded.policy.rules) document["rules"].push_back(rule.name);
  for (const auto& error : loaded.errors) {
    document["errors"].push_back({{"code", name_of(error.code)}, {"message", error.message}, {"advice", error.advice}});
  }
  return document;
}

}  // namespace

int run_policy(const Options& options) {
  if (options.words.empty() || options.words.front() != "check") {
    return report_failure(
        kName, usage_error("it is not said what to do with the policy", "Say 'poolshift policy check'."), options.json);
  }
  const auto system = make_posix_system();
  const std::vector<std::string> files(options.words.begin() + 1, options.words.end());
  const auto loaded =
      files.empty() ? hook::load_policy(*system, options.policy_dir) : hook::load_policy_files(*system, files);
  for (const auto& error : loaded.errors) {
    write_line(kStderr, printable(fmt::format("{}. {}", error.message, error.advice)));
  }
  const int fd = options.json ? kStderr : kStdout;
  for (const auto& rule : loaded.policy.rules) {
    write_line(
        fd, printable(fmt::format("rule '{}': pool '{}' to pool '{}'", rule.name, rule.source_pool, rule.target_pool)));
  }
  if (loaded.policy.rules.empty() && loaded.errors.empty()) write_line(fd, "there are no rules");
  if (options.json) write_document(document_of(loaded));
  return loaded.errors.empty() ? POOLSHIFT_OK : POOLSHIFT_USAGE;
}

}  // namespace poolshift::cli
