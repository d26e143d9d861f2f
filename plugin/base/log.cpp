#include "base/log.h"

#include <atomic>
#include <memory>

#include <fmt/core.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/null_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

namespace poolshift {

namespace {

// Loggers are never freed: a job's thread may still hold the one before.
std::atomic<spdlog::logger*>& current() {
  static std::atomic<spdlog::logger*> logger{
      new spdlog::logger("poolshift", std::make_shared<spdlog::sinks::null_sink_mt>())};
  return logger;
}

}  // namespace

spdlog::logger& log() { return *current().load(); }

Status open_log(const std::string& file, const std::string& level) {
  spdlog::sink_ptr sink;
  if (file.empty()) {
    sink = std::make_shared<spdlog::sinks::null_sink_mt>();
  } else if (file == "-") {
    sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  } else {
    // spdlog reports by exception only; it ends here.
    try {
      sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(file);
    } catch (const spdlog::spdlog_ex& reason) {
      return Error{ErrorCode::invalid, fmt::format("the log file cannot be opened: {}", reason.what()),
                   "Give a file that can be written, or none."};
    }
  }
  auto* logger = new spdlog::logger("poolshift", std::move(sink));
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::info);
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
  current().store(logger);
  return {};
}

}  // namespace poolshift
