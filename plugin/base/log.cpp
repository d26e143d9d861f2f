#include "base/log.h"

#include <fmt/core.h>
#include <spdlog/details/null_mutex.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <sys/uio.h>
#include <syslog.h>
#include <unistd.h>

// Where this file calls it is of no use to a reader of the journal.
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <string_view>

namespace poolshift {

namespace {

constexpr const char* kJournalSocket = "/run/systemd/journal/socket";

// spdlog's own sink for the journal has no fields of the caller's.
class JournaldSink : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    auto fields = LogFields::current();
    fields.emplace_back("MESSAGE", std::string(message.payload.data(), message.payload.size()));
    fields.emplace_back("PRIORITY", std::to_string(syslog_priority_of(message.level)));
    const auto is_identifier = [](const auto& field) { return field.first == "SYSLOG_IDENTIFIER"; };
    if (std::none_of(fields.begin(), fields.end(), is_identifier)) {
      fields.emplace_back("SYSLOG_IDENTIFIER", "poolshift");
    }
    std::vector<std::string> texts;
    for (const auto& [name, value] : fields) texts.push_back(fmt::format("{}={}", name, value));
    std::vector<iovec> parts;
    for (auto& text : texts) parts.push_back({text.data(), text.size()});
    ::sd_journal_sendv(parts.data(), static_cast<int>(parts.size()));  // a log that fails stops nothing
  }
  void flush_() override {}
};

thread_local const LogFields* newest_fields = nullptr;

// All loggers that ever were: a job's thread may still use the one before.
class Loggers {
 public:
  Loggers() { use(std::make_unique<spdlog::logger>("poolshift")); }

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

Status open_log(const std::string& file, const std::string& level, bool journald) {
  std::vector<spdlog::sink_ptr> sinks;
  if (journald) sinks.push_back(std::make_shared<JournaldSink>());
  if (file == "-") {
    sinks.push_back(std::make_shared<spdlog::sinks::stderr_sink_mt>());
  } else if (!file.empty()) {
    // spdlog reports by exception only; it ends here.
    try {
      sinks.push_back(std::make_shared<spdlog::sinks::basic_file_sink_mt>(file));
    } catch (const spdlog::spdlog_ex& reason) {
      return Error{ErrorCode::invalid, fmt::format("the log file cannot be opened: {}", reason.what()),
                   "Give a file that can be written, or none."};
    }
  }
  auto logger = std::make_unique<spdlog::logger>("poolshift", sinks.begin(), sinks.end());
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::info);
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
  loggers().use(std::move(logger));
  return {};
}

bool journald_is_there() { return ::access(kJournalSocket, F_OK) == 0; }

int syslog_priority_of(spdlog::level::level_enum level) {
  switch (level) {
    case spdlog::level::critical: return LOG_CRIT;
    case spdlog::level::err: return LOG_ERR;
    case spdlog::level::warn: return LOG_WARNING;
    case spdlog::level::info: return LOG_INFO;
    default: return LOG_DEBUG;
  }
}

LogFields::LogFields(std::function<List()> fields) : fields_(std::move(fields)), outer_(newest_fields) {
  newest_fields = this;
}

LogFields::~LogFields() { newest_fields = outer_; }

LogFields::List LogFields::current() {
  List all;
  for (const auto* scope = newest_fields; scope != nullptr; scope = scope->outer_) {
    for (auto& field : scope->fields_()) {
      const auto has_its_name = [&](const auto& other) { return other.first == field.first; };
      if (std::none_of(all.begin(), all.end(), has_its_name)) all.push_back(std::move(field));
    }
  }
  return all;
}

}  // namespace poolshift
