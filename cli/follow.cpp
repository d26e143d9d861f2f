#include "follow.h"

#include <fmt/core.h>

#include "output.h"

namespace poolshift::cli {

namespace {

constexpr int kSliceMs = 200;

}  // namespace

Follower::Follower(Job& job, Progress& progress, SignalWatch& signals, std::string host_arguments)
    : job_(job), progress_(progress), signals_(signals), host_arguments_(std::move(host_arguments)) {}

Reply Follower::run() {
  for (;;) {
    while (signals_.take()) on_signal();
    if (asked_ == Asked::force) return ended_by_force();
    if (asked_ == Asked::cancel && !cancel_answered_) try_cancel();
    auto reply = job_.wait(0);
    if (reply.result != POOLSHIFT_RUNNING) {
      progress_.clear();
      return reply;
    }
    last_status_ = reply.document;
    progress_.show(last_status_);
    signals_.wait(job_.fd(), kSliceMs);
  }
}

bool Follower::left(const Reply& ended) const {
  const bool asked = asked_ == Asked::leave || asked_ == Asked::force;
  // Left while it was validated, it is no job yet, and refused.
  return asked && text_at(ended.document, "state") == "held";
}

std::string Follower::left_message() const {
  auto job = text_at(last_status_, "job");
  return fmt::format("left as job {}: 'poolshift recover{}' goes on with it", job.empty() ? "unknown" : job,
                     host_arguments_);
}

void Follower::on_signal() {
  switch (asked_) {
    case Asked::nothing:
      asked_ = Asked::cancel;
      progress_.note("cancelling and undoing; another Ctrl-C leaves the job to 'poolshift recover'");
      return;
    case Asked::cancel: return ask_leave();
    case Asked::leave:
    case Asked::force: asked_ = Asked::force; return;
  }
}

// While it is validated, a job has no journal that the wish could be written to: then it is asked again.
void Follower::try_cancel() {
  const auto reply = job_.cancel();
  if (!reply.ok() && reply.failure.code == "not_found") return;
  cancel_answered_ = true;
  if (reply.ok()) return;
  progress_.note(fmt::format("not cancelled: {}", sentence_of(reply.failure)));
  const bool undoing = text_at(last_status_, "phase") == "undo";
  progress_.note(fmt::format("the {} will be finished; another Ctrl-C leaves that to 'poolshift recover'",
                             undoing ? "undo" : "swap"));
}

void Follower::ask_leave() {
  asked_ = Asked::leave;
  const auto reply = job_.leave();
  if (reply.ok()) {
    progress_.note("leaving the job as soon as it can be left");
  } else {
    progress_.note(fmt::format("not left: {}", sentence_of(reply.failure)));
  }
}

// The library did not come to a point where the job can be left, and may not for a while (libvirtd hangs).
Reply Follower::ended_by_force() const {
  progress_.clear();
  Document report = last_status_.is_object() ? last_status_ : Document{{"schema", 1}};
  report["state"] = "held";
  report["running"] = false;
  report["guest_on"] = "unknown";  // nobody looks from now on
  return {POOLSHIFT_HELD, report, {POOLSHIFT_HELD, "left", "the job was left", "Run 'poolshift recover'."}};
}

}  // namespace poolshift::cli
