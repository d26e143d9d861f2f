#include "library.h"

#include <fmt/core.h>

namespace poolshift::cli {

namespace {

// A `char **` argument of the library.
class TextOut {
 public:
  TextOut() = default;
  TextOut(const TextOut&) = delete;
  TextOut& operator=(const TextOut&) = delete;
  ~TextOut() { poolshift_free(text_); }

  operator char**() { return &text_; }  // NOLINT(google-explicit-constructor)

  Document document() const {
    if (!text_) return nullptr;
    auto parsed = Document::parse(text_, nullptr, false);
    return parsed.is_discarded() ? Document(nullptr) : parsed;
  }

 private:
  char* text_ = nullptr;
};

Failure failure_of(int result, const Document& error) {
  Failure failure{result, text_at(error, "code"), text_at(error, "message"), text_at(error, "advice")};
  if (failure.code.empty()) failure.code = "internal";
  if (failure.message.empty()) failure.message = fmt::format("the library failed with result {} and no reason", result);
  return failure;
}

Reply reply_of(int result, const TextOut& document, const TextOut& error) {
  Reply reply{result, document.document(), {}};
  if (result == POOLSHIFT_OK || result == POOLSHIFT_RUNNING) return reply;
  // A job that has ended carries its error in its report.
  auto reason = error.document();
  if (reason.is_null()) reason = part_at(reply.document, "error");
  reply.failure = failure_of(result, reason);
  return reply;
}

}  // namespace

Outcome<std::string> library_version() {
  const unsigned version = poolshift_abi_version();
  constexpr unsigned kNeeded = POOLSHIFT_ABI_MAJOR * 1000 + POOLSHIFT_ABI_MINOR;
  if (version / 1000 == POOLSHIFT_ABI_MAJOR && version >= kNeeded) return std::string(poolshift_version());
  return Failure{
      POOLSHIFT_INTERNAL, "unsupported",
      fmt::format("the libpoolshift that was loaded ({}) has ABI {}.{}, this command needs {}.{}", poolshift_version(),
                  version / 1000, version % 1000, POOLSHIFT_ABI_MAJOR, POOLSHIFT_ABI_MINOR),
      "Install command and library of the same version, and look at LD_LIBRARY_PATH."};
}

Reply Job::wait(int timeout_ms) {
  TextOut status;
  TextOut error;
  const int result = poolshift_job_wait(job_.get(), timeout_ms, status, error);
  return reply_of(result, status, error);
}

Reply Job::set(const Document& settings) {
  TextOut error;
  const int result = poolshift_job_set(job_.get(), to_line(settings).c_str(), error);
  return reply_of(result, TextOut(), error);
}

Reply Job::cancel() {
  TextOut error;
  const int result = poolshift_job_cancel(job_.get(), error);
  return reply_of(result, TextOut(), error);
}

Reply Job::leave() {
  TextOut error;
  const int result = poolshift_job_leave(job_.get(), error);
  return reply_of(result, TextOut(), error);
}

int Job::fd() { return poolshift_job_fd(job_.get()); }

Outcome<Host> Host::open(const Document& options) {
  TextOut error;
  poolshift_host* host = nullptr;
  const int result = poolshift_host_open(to_line(options).c_str(), &host, error);
  if (result != POOLSHIFT_OK) return failure_of(result, error.document());
  return Host(host);
}

Reply Host::check(const Document& request) {
  TextOut report;
  TextOut error;
  const int result = poolshift_check(host_.get(), to_line(request).c_str(), report, error);
  return reply_of(result, report, error);
}

Outcome<Job> Host::start(const Document& request) {
  TextOut error;
  poolshift_job* job = nullptr;
  const int result = poolshift_job_start(host_.get(), to_line(request).c_str(), &job, error);
  if (result != POOLSHIFT_OK) return failure_of(result, error.document());
  return Job(job);
}

Outcome<Job> Host::attach(const std::string& job_id) {
  TextOut error;
  poolshift_job* job = nullptr;
  const int result = poolshift_job_attach(host_.get(), job_id.c_str(), &job, error);
  if (result != POOLSHIFT_OK) return failure_of(result, error.document());
  return Job(job);
}

Reply Host::jobs() {
  TextOut list;
  TextOut error;
  const int result = poolshift_jobs(host_.get(), list, error);
  return reply_of(result, list, error);
}

Reply Host::disks() {
  TextOut list;
  TextOut error;
  const int result = poolshift_disks(host_.get(), list, error);
  return reply_of(result, list, error);
}

Reply Host::recover(const Document& options) {
  TextOut report;
  TextOut error;
  const int result = poolshift_recover(host_.get(), to_line(options).c_str(), report, error);
  return reply_of(result, report, error);
}

Reply Host::rescue(const Document& request, bool dry_run) {
  TextOut report;
  TextOut error;
  const int result = poolshift_rescue(host_.get(), to_line(request).c_str(), dry_run ? 1 : 0, report, error);
  return reply_of(result, report, error);
}

Reply Host::doctor() {
  TextOut report;
  TextOut error;
  const int result = poolshift_doctor(host_.get(), report, error);
  return reply_of(result, report, error);
}

}  // namespace poolshift::cli
