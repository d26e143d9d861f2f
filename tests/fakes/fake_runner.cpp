#include "fakes/fake_runner.h"

#include <algorithm>

#include "include/poolshift.h"

namespace poolshift::fakes {

using nlohmann::json;

namespace {

std::string disk_of(const json& request) { return request["disk"].get<std::string>(); }

class FakeSpoolJob : public SpoolJob {
 public:
  FakeSpoolJob(FakeJobs& jobs, FakeJobs::Job& job) : jobs_(jobs), job_(job) {}

  std::optional<Ended> ended() override {
    return jobs_.world_.call([&]() -> std::optional<Ended> {
      auto end = look();
      status_ = end ? end->report : jobs_.shown(job_);
      return end;
    });
  }
  const json& status() const override { return status_; }
  bool set_bandwidth(std::uint64_t bytes_per_s) override {
    return jobs_.world_.call([&] {
      job_.bandwidth_bytes_per_s = bytes_per_s;
      return true;
    });
  }
  bool leave() override {
    left_ = true;
    return true;
  }

 private:
  std::optional<Ended> look() {
    if (!job_.running) return Ended{POOLSHIFT_HELD, jobs_.shown(job_)};
    if (!job_.has_journal) {
      if (auto refused = validate()) return refused;
      job_.has_journal = true;
      ++jobs_.begun[disk_of(job_.request)];
      return std::nullopt;
    }
    if (left_) {
      job_.running = false;
      return Ended{POOLSHIFT_HELD, jobs_.shown(job_)};
    }
    if (--job_.looks_left > 0) return std::nullopt;
    return finish();
  }

  std::optional<Ended> validate() {
    const auto source = job_.request["source"].get<std::string>();
    const auto now_on = jobs_.image_of(job_.request);
    if (source != now_on) return refused("disk_source", "refused");
    if (job_.end.result == POOLSHIFT_REFUSED) return refused(job_.end.refused_check, job_.end.code);
    const auto stands_in_the_way = [&](const auto& other) {
      return other.get() != &job_ && other->has_journal && (other->state == "open" || other->state == "held") &&
             disk_of(other->request) == disk_of(job_.request);
    };
    if (std::any_of(jobs_.jobs.begin(), jobs_.jobs.end(), stands_in_the_way)) return refused("open_jobs", "refused");
    return std::nullopt;
  }

  Ended refused(const std::string& check, const std::string& code) {
    job_.running = false;
    job_.state = "refused";
    return {POOLSHIFT_REFUSED,
            {{"state", "refused"},
             {"job", nullptr},
             {"checks", {{{"name", check}, {"result", "refuse"}}}},
             {"error", {{"code", code}, {"message", check + " refuses"}, {"advice", "Wait."}}}}};
  }

  Ended finish() {
    job_.running = false;
    switch (job_.end.result) {
      case POOLSHIFT_OK:
        job_.state = "done";
        ++jobs_.moves[disk_of(job_.request)];
        jobs_.images[disk_of(job_.request)] = job_.request["target"];
        break;
      case POOLSHIFT_UNDONE: job_.state = "undone"; break;
      case POOLSHIFT_CANCELLED: job_.state = "cancelled"; break;
      default: job_.state = "held";
    }
    return {job_.end.result, jobs_.shown(job_)};
  }

  FakeJobs& jobs_;
  FakeJobs::Job& job_;
  json status_;
  bool left_ = false;
};

class FakeRunner : public SwapRunner {
 public:
  explicit FakeRunner(FakeJobs& jobs) : jobs_(jobs) {}

  Result<std::unique_ptr<SpoolJob>> start(const json& request) override {
    return jobs_.world_.call([&]() -> Result<std::unique_ptr<SpoolJob>> {
      auto job = std::make_unique<FakeJobs::Job>();
      job->id = jobs_.world_.next_id();
      job->request = request;
      job->looks_left = jobs_.looks_per_job;
      job->bandwidth_bytes_per_s = request.value("bandwidth_bytes_per_s", std::uint64_t{0});
      // Of the attempt, not of the call: one that a crash has cut off is made again.
      const auto& ends = jobs_.ends[disk_of(request)];
      const auto attempt = std::stoul(request["labels"]["attempt"].get<std::string>()) - 1;
      if (attempt < ends.size()) job->end = ends[attempt];
      jobs_.jobs.push_back(std::move(job));
      const auto running =
          std::count_if(jobs_.jobs.begin(), jobs_.jobs.end(), [](const auto& each) { return each->running; });
      jobs_.most_at_once = std::max(jobs_.most_at_once, static_cast<std::size_t>(running));
      return follow(*jobs_.jobs.back());
    });
  }
  Result<std::unique_ptr<SpoolJob>> take_up(const std::string& id) override {
    return jobs_.world_.call([&]() -> Result<std::unique_ptr<SpoolJob>> {
      auto* job = jobs_.find(id);
      if (job == nullptr) return Error{ErrorCode::not_found, "no job " + id, ""};
      if (job->running) return Error{ErrorCode::busy, "somebody runs " + id, ""};
      job->running = true;
      if (job->state == "held") job->end = {};  // the cause is gone by now
      job->state = "open";
      job->looks_left = jobs_.looks_per_job;
      return follow(*job);
    });
  }
  Result<std::unique_ptr<SpoolJob>> attach(const std::string& id) override { return follow(*jobs_.find(id)); }
  Result<json> jobs() override {
    return jobs_.world_.call([&]() -> Result<json> {
      json out = json::array();
      for (const auto& job : jobs_.jobs) {
        if (job->has_journal) out.push_back(jobs_.shown(*job));
      }
      return out;
    });
  }

 private:
  std::unique_ptr<SpoolJob> follow(FakeJobs::Job& job) { return std::make_unique<FakeSpoolJob>(jobs_, job); }

  FakeJobs& jobs_;
};

}  // namespace

std::unique_ptr<SwapRunner> FakeJobs::runner() { return std::make_unique<FakeRunner>(*this); }

void FakeJobs::process_dies() {
  for (auto& job : jobs) job->running = false;
  std::erase_if(jobs, [](const auto& job) { return !job->has_journal; });
}

json FakeJobs::shown(const Job& job) const {
  json out = {{"job", job.id},
              {"state", job.running           ? "open"
                        : job.state == "open" ? "held"
                                              : job.state},
              {"running", job.running},
              {"guest_on", job.end.guest_on},
              {"labels", job.request["labels"]},
              {"checks", json::array()},
              {"error", nullptr}};
  if (job.running || job.state == "done") return out;
  const auto code = job.state == "open" ? "left" : job.end.code;
  out["error"] = {{"code", code}, {"message", "it is " + code}, {"advice", "Recover it."}};
  return out;
}

FakeJobs::Job* FakeJobs::find(const std::string& id) {
  const auto found = std::find_if(jobs.begin(), jobs.end(), [&](const auto& job) { return job->id == id; });
  return found == jobs.end() ? nullptr : found->get();
}

std::string FakeJobs::image_of(const json& request) {
  const auto moved = images.find(disk_of(request));
  return moved == images.end() ? "volumes-hdd/" + disk_of(request) : moved->second;
}

}  // namespace poolshift::fakes
