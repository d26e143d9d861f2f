#include "spool_swaps.h"

#include <chrono>
#include <future>

#include "spool/job_json.h"

namespace poolshift::cli {

using nlohmann::json;

namespace {

using namespace std::chrono_literals;

// What a reply has to say of a job that has ended: its report, or only why there is none.
SpoolJob::Ended ended_of(const Reply& reply, const json& status) {
  if (!reply.document.is_null()) return {reply.result, status};
  return {reply.result,
          {{"error",
            {{"code", reply.failure.code}, {"message", reply.failure.message}, {"advice", reply.failure.advice}}}}};
}

class LibraryJob : public SpoolJob {
 public:
  explicit LibraryJob(Job job) : job_(std::move(job)) {}

  std::optional<Ended> ended() override {
    const auto reply = job_.wait(0);
    if (!reply.document.is_null()) status_ = unordered(reply.document);
    if (reply.result == POOLSHIFT_RUNNING) return std::nullopt;
    return ended_of(reply, status_);
  }
  const json& status() const override { return status_; }
  bool set_bandwidth(std::uint64_t bytes_per_s) override {
    return job_.set({{"schema", 1}, {"bandwidth_bytes_per_s", bytes_per_s}}).ok();
  }

 protected:
  Job job_;
  json status_;
};

class StartedJob final : public LibraryJob {
 public:
  using LibraryJob::LibraryJob;

  bool leave() override {
    (void)job_.leave();  // refused only when it has ended by itself
    return true;
  }
};

// Run by another process: left by no longer looking.
class AttachedJob final : public LibraryJob {
 public:
  using LibraryJob::LibraryJob;

  std::optional<Ended> ended() override {
    if (auto ended = LibraryJob::ended(); ended || !left_) return ended;
    return Ended{POOLSHIFT_HELD, status_};
  }
  bool leave() override {
    left_ = true;
    return true;
  }

 private:
  bool left_ = false;
};

// Recovered by a thread of this process; poolshift_recover() has no handle to leave it by.
class RecoveredJob final : public LibraryJob {
 public:
  RecoveredJob(Job job, std::future<Reply> recovered) : LibraryJob(std::move(job)), recovered_(std::move(recovered)) {}

  std::optional<Ended> ended() override {
    const auto ended = LibraryJob::ended();
    // Until the thread has taken it up, nobody seems to run it.
    if (recovered_.valid()) {
      if (recovered_.wait_for(0s) != std::future_status::ready) return std::nullopt;
      recovered_.get();  // what became of the job is in the journal
      return LibraryJob::ended();
    }
    return ended;
  }
  bool leave() override { return !recovered_.valid(); }

 private:
  std::future<Reply> recovered_;
};

Error error_of(const Failure& failure) {
  // The code's name is in `failure` for people; what matters here is that it did not come to be.
  return {failure.exit_code == POOLSHIFT_USAGE ? ErrorCode::invalid : ErrorCode::failed, failure.message,
          failure.advice};
}

class LibrarySwaps final : public SwapRunner {
 public:
  explicit LibrarySwaps(Host& host) : host_(host) {}

  Result<std::unique_ptr<SpoolJob>> start(const json& swap_request) override {
    auto job = host_.start(ordered(swap_request));
    if (!job) return error_of(job.failure());
    return std::unique_ptr<SpoolJob>(std::make_unique<StartedJob>(std::move(*job)));
  }

  Result<std::unique_ptr<SpoolJob>> take_up(const std::string& job_id) override {
    auto job = host_.attach(job_id);
    if (!job) return error_of(job.failure());
    auto recovered = std::async(std::launch::async, [this, job_id] {
      return host_.recover({{"schema", 1}, {"job", job_id}});
    });
    return std::unique_ptr<SpoolJob>(std::make_unique<RecoveredJob>(std::move(*job), std::move(recovered)));
  }

  Result<std::unique_ptr<SpoolJob>> attach(const std::string& job_id) override {
    auto job = host_.attach(job_id);
    if (!job) return error_of(job.failure());
    return std::unique_ptr<SpoolJob>(std::make_unique<AttachedJob>(std::move(*job)));
  }

  Result<json> jobs() override {
    const auto reply = host_.jobs();
    if (!reply.ok()) return error_of(reply.failure);
    return unordered(part_at(reply.document, "jobs"));
  }

 private:
  Host& host_;
};

}  // namespace

std::unique_ptr<SwapRunner> make_swap_runner(Host& host) { return std::make_unique<LibrarySwaps>(host); }

json unordered(const Document& document) { return json::parse(to_line(document), nullptr, false); }

Document ordered(const json& json_value) {
  return Document::parse(json_value.dump(-1, ' ', false, json::error_handler_t::replace), nullptr, false);
}

json job_of_request(const SpoolRequest& request, const json& jobs) {
  const json* found = nullptr;
  for (const auto& job : jobs) {
    if (job.value("labels", json::object()).value(kRequestLabel, "") != request.id) continue;
    if (found == nullptr || !is_open_job(*found)) found = &job;
  }
  return found == nullptr ? json() : *found;
}

Failure failure_of(const Error& error) {
  int exit_code = POOLSHIFT_HELD;
  switch (error.code) {
    case ErrorCode::invalid: exit_code = POOLSHIFT_USAGE; break;
    case ErrorCode::not_found:
    case ErrorCode::exists:
    case ErrorCode::busy:
    case ErrorCode::refused: exit_code = POOLSHIFT_REFUSED; break;
    default: break;
  }
  return {exit_code, std::string(name_of(error.code)), error.message, error.advice};
}

}  // namespace poolshift::cli
