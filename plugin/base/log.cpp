#include "base/log.h"

#include <fmt/core.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/null_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

namespace poolshift {

namespace {

// All loggers that ever were: a job's thread may still use the one before.
class Loggers {
 public:
  Loggers() { use(std::make_unique<spdlog::logger>("poolshift", std::make_shared<spdlog::sinks::null_sink_mt>())); }

  void use(std::unique_ptr<spdlog::logger> logger) {
    const std::lock_guard lock(mutex_);
    current_ = logger.get();
    all_.push_back(std::move(logger));
  }
  spdlog::logger& current() { return *current_; }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<spdlog::logger>> all_;
  std::atomic<spdlog::logger*> current_{nullptr};
};

Loggers& loggers() {
  static auto& all = *new Loggers;  // outlives every thread
  return all;
}

}  // namespace

spdlog::logger& log() { return loggers().current(); }

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
  auto logger = std::make_unique<spdlog::logger>("poolshift", std::move(sink));
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::info);
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
  loggers().use(std::move(logger));
  return {};
}

}  // namespace poolshift
