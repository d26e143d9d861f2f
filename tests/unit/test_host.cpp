// The host: jobs in threads, and what callers see of them.
#include <algorithm>
#include <catch2/catch.hpp>
#include <condition_variable>
#include <future>
#include <thread>

#include "engine/host.h"
#include "fakes/fake_world.h"

namespace poolshift {

using fakes::FakeWorld;

namespace {

const ImageName kSource{"volumes-hdd", "", "disk"};
const ImageName kTarget{"volumes-ssd", "", "disk"};

class Flag : public DoneSignal {
 public:
  void set() override {
    const std::lock_guard lock(mutex_);
    set_ = true;
    changed_.notify_all();
  }
  bool wait_ms(int timeout_ms) override {
    std::unique_lock lock(mutex_);
    if (timeout_ms < 0) {
      changed_.wait(lock, [&] { return set_; });
      return true;
    }
    return changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms), [&] { return set_; });
  }
  int fd() const override { return -1; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool set_ = false;
};

std::unique_ptr<DoneSignal> make_flag() { return std::make_unique<Flag>(); }

struct Setting {
  Setting() {
    world.add_image(kSource, 64 * fakes::kBlockBytes);
    world.add_image(kTarget, 64 * fakes::kBlockBytes);
    domain = &world.add_domain("guest", {FakeWorld::disk_on("vda", kSource, 100)});
    world.fill(*domain, "vda", 8);
    request.domain = "guest";
    request.disk = "vda";
    request.target = kTarget;
  }

  std::unique_ptr<Host> open_host(const std::string& guardian = "") {
    HostOptions options;
    options.state_dir = "/state";
    options.guardian = guardian;
    world.files["/guardian"].content = "a program";
    auto host =
        std::make_unique<Host>(options, HostPorts{world.hypervisor(), world.storage(), world.system(), make_flag});
    REQUIRE(host->open());
    return host;
  }

  // The fakes are for one thread at a time: the test only looks when the job has ended.
  std::shared_ptr<LocalJob> run_one(Host& host) {
    auto job = host.start(request);
    REQUIRE(job->done().wait_ms(60'000));
    return job;
  }

  FakeWorld world;
  fakes::FakeDomain* domain;
  SwapRequest request;
};

}  // namespace

TEST_CASE("an idle guest's disk is copied in large chunks, unless the copy is limited") {
  for (const bool idle : {true, false}) {
    for (const std::uint64_t limit : {0, 1'000'000}) {
      Setting setting;
      setting.domain->disks[0].writes_per_s = idle ? 0 : 100;
      setting.request.engine = Engine::mirror;
      setting.request.bandwidth_bytes_per_s = limit;
      auto host = setting.open_host();
      setting.run_one(*host);
      const auto& options = setting.domain->disks[0].latest_mirror;
      REQUIRE(options);
      CHECK((options->granularity_bytes != 0) == (idle && limit == 0));
    }
  }
}

TEST_CASE("a job that is done reports what was done") {
  Setting setting;
  auto host = setting.open_host();
  const auto job = setting.run_one(*host);
  CHECK(job->result() == POOLSHIFT_OK);
  const auto& report = job->report();
  CHECK(report["state"] == "done");
  CHECK(report["guest_on"] == "target");
  CHECK(report["source"] == "volumes-hdd/disk");
  CHECK(report["target"] == "volumes-ssd/disk");
  CHECK(report["engine"] == "mirror");
  CHECK(report["error"].is_null());
  CHECK(report["bytes"]["source_used"] == 8 * fakes::kBlockBytes);
  CHECK(report["seconds"]["total"].get<double>() > 0);
  CHECK(host->look_at(job->id())->json["state"] == "done");
  CHECK(host->jobs()->at("jobs").size() == 1);
  CHECK(host->cancel(job->id(), nullptr).error().code == ErrorCode::refused);
}

TEST_CASE("a refused request leaves no job behind") {
  Setting setting;
  setting.request.disk = "vdz";
  auto host = setting.open_host();
  const auto job = setting.run_one(*host);
  CHECK(job->result() == POOLSHIFT_REFUSED);
  CHECK(job->report()["state"] == "refused");
  CHECK(job->report()["job"].is_null());
  CHECK(job->report()["error"]["code"] == "refused");
  CHECK(host->jobs()->at("jobs").empty());
}

TEST_CASE("a cancel that comes before there is a journal is not lost") {
  Setting setting;
  std::promise<void> asked;
  setting.world.happen_at(1, [&] { asked.get_future().wait(); });  // it is validating for so long
  auto host = setting.open_host();
  auto job = host->start(setting.request);
  job->ask({true, std::nullopt});
  asked.set_value();
  REQUIRE(job->done().wait_ms(60'000));
  CHECK(job->result() == POOLSHIFT_CANCELLED);
  CHECK(job->report()["state"] == "cancelled");
  CHECK(job->report()["guest_on"] == "source");
}

TEST_CASE("when nobody answers, nothing is changed and the request is refused as unreachable") {
  Setting setting;
  setting.world.hypervisor_away_until_ms = 1'000'000'000;
  auto host = setting.open_host();
  const auto job = setting.run_one(*host);
  CHECK(job->result() == POOLSHIFT_REFUSED);
  CHECK(job->report()["state"] == "refused");
  CHECK(job->report()["target"] == "volumes-ssd/disk");
  CHECK(job->report()["domain"] == "guest");
  CHECK(job->report()["error"]["code"] == "unreachable");
  CHECK(job->report()["plan"].is_null());
  CHECK(host->check(setting.request)->result == POOLSHIFT_REFUSED);
}

TEST_CASE("a switch that changes more of a disk than its source is held, and the difference is told") {
  for (const bool persistent_only : {false, true}) {
    for (const auto engine : {Engine::mirror, Engine::handover}) {
      Setting setting;
      setting.request.engine = engine;
      auto& disk = setting.domain->disks.front();
      disk.shown.comparable_xml = "<disk><serial>1</serial></disk>";
      disk.changed_by_switch = "<disk></disk>";
      disk.changes_only_definition = persistent_only;
      auto host = setting.open_host("/guardian");
      const auto job = setting.run_one(*host);
      CHECK(job->result() == POOLSHIFT_HELD);
      CHECK(job->report()["guest_on"] == "target");
      CHECK(job->report()["phase"] == "held_on_target");
      const auto message = job->report()["error"]["message"].get<std::string>();
      CHECK(message.find("was <disk><serial>1</serial></disk> and is <disk></disk>") != std::string::npos);
      CHECK(host->recover("")->result == POOLSHIFT_HELD);
      disk.changed_by_switch.clear();  // a person has corrected it
      CHECK(host->recover("")->result == POOLSHIFT_OK);
    }
  }
}

TEST_CASE("another image that has got the source's name is not put away") {
  Setting setting;
  setting.request.source_after = SourceAfter::trash;
  const auto id = setting.world.image(kSource)->id;
  for (std::uint64_t number = 1; number < 400; ++number) {
    setting.world.happen_at(number, [&] {
      auto* source = setting.world.image(kSource);
      const bool is_left = setting.domain->disks.front().shown.image == kTarget && source->watchers.empty();
      if (is_left && source->id == id) source->id = "of a stranger";
    });
  }
  auto host = setting.open_host();
  const auto job = setting.run_one(*host);
  CHECK(job->result() == POOLSHIFT_HELD);
  CHECK(job->report()["guest_on"] == "target");
  const auto message = job->report()["error"]["message"].get<std::string>();
  CHECK(message.find("its id is of a stranger, the job knows " + id) != std::string::npos);
  CHECK(setting.world.image(kSource) != nullptr);
  CHECK(setting.world.trash.empty());
}

TEST_CASE("a target that came into use after it was checked is not touched") {
  for (const auto engine : {Engine::mirror, Engine::handover}) {
    for (const bool other_image : {false, true}) {
      Setting setting;
      setting.request.engine = engine;
      auto& target = *setting.world.image(kTarget);
      for (std::uint64_t number = 1; number < 40; ++number) {
        setting.world.happen_at(number, [&, other_image] {
          const bool has_journal = std::any_of(setting.world.files.begin(), setting.world.files.end(),
                                               [](const auto& file) { return file.first.ends_with(".journal"); });
          if (!has_journal || target.spec.metadata.contains("poolshift.job")) return;
          if (other_image) target.id = "of a stranger";
          if (!other_image) setting.world.store(target, 0, 7);
        });
      }
      auto host = setting.open_host("/guardian");
      const auto job = setting.run_one(*host);
      CHECK(job->result() == POOLSHIFT_UNDONE);
      CHECK(job->report()["guest_on"] == "source");
      const auto message = job->report()["error"]["message"].get<std::string>();
      CHECK(message.find(other_image ? "is another one now" : "came into use") != std::string::npos);
      REQUIRE(setting.world.image(kTarget) != nullptr);
      CHECK(setting.world.image(kTarget)->spec.metadata.empty());
      CHECK(setting.world.trash.empty());
    }
  }
}

TEST_CASE("a job that was left is held, and recover ends it") {
  Setting setting;
  setting.world.copy_bytes_per_s = 4'000;  // slow enough to be left in the copy
  auto host = setting.open_host();
  auto job = host->start(setting.request);
  job->leave() = true;
  REQUIRE(job->done().wait_ms(60'000));
  CHECK(job->result() == POOLSHIFT_HELD);
  const auto seen = host->look_at(job->id());
  CHECK(seen->result == POOLSHIFT_HELD);
  CHECK(seen->json["phase"] == "copy");
  CHECK(seen->json["guest_on"] == "source");
  CHECK(seen->json["error"]["code"] == "left");
  setting.world.copy_bytes_per_s = 4'000'000;
  const auto recovered = host->recover("");
  REQUIRE(recovered);
  CHECK(recovered->result == POOLSHIFT_OK);
  CHECK(recovered->json["jobs"][0]["state"] == "done");
  CHECK(host->recover("")->json["jobs"].empty());
}

TEST_CASE("a journal that cannot be read is shown, and recover does not pass over it") {
  Setting setting;
  auto host = setting.open_host();
  setting.world.files["/state/jobs/0123456789ab.journal"].content = "rubbish";
  const auto list = host->jobs();
  CHECK(list->at("jobs")[0]["state"] == "held");
  CHECK(list->at("jobs")[0]["guest_on"] == "unknown");
  CHECK(host->recover("")->result == POOLSHIFT_HELD);
  CHECK(host->doctor().result == POOLSHIFT_HELD);
}

TEST_CASE("another user's job is shown as what it is, and does not keep one's own from recovery") {
  Setting setting;
  setting.world.copy_bytes_per_s = 4'000;
  auto host = setting.open_host();
  auto job = host->start(setting.request);
  job->leave() = true;
  REQUIRE(job->done().wait_ms(60'000));
  const auto journal = "/state/jobs/" + job->id() + ".journal";
  setting.world.of_others.insert(journal);
  CHECK(host->look_at(job->id())->json["state"] == "held");
  setting.world.locked.insert(journal);
  CHECK(host->look_at(job->id())->json["state"] == "open");
  CHECK(host->recover("")->json["jobs"].empty());
  setting.world.locked.erase(journal);
  const auto recovered = host->recover("");
  REQUIRE(recovered);
  CHECK(recovered->result == POOLSHIFT_HELD);
  CHECK(recovered->json["jobs"][0]["error"]["code"] == "denied");
}

TEST_CASE("doctor names what it finds") {
  Setting setting;
  auto host = setting.open_host();
  const auto healthy = host->doctor();
  CHECK(healthy.result == POOLSHIFT_OK);
  setting.world.secrets.clear();
  const auto sick = host->doctor();
  CHECK(sick.result == POOLSHIFT_HELD);
}

}  // namespace poolshift
