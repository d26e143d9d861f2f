#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#include <iostream>

#include "world.h"

namespace poolshift::contract {
namespace {
World* the_world = nullptr;

// Guests emulate their processors: those of earlier cases would take them from the later ones.
struct StopGuests : Catch::TestEventListenerBase {
  using TestEventListenerBase::TestEventListenerBase;
  void testCaseEnded(const Catch::TestCaseStats&) override { world().stop_guests(); }
};
CATCH_REGISTER_LISTENER(StopGuests)
}  // namespace

World& world() { return *the_world; }

std::string unique(const std::string& base) { return base + "-" + world().system().random_id(); }

std::unique_ptr<Cluster> connect() {
  auto connected = world().storage().connect(world().access(), world().key());
  if (!connected) FAIL(connected.error().message);
  return std::move(*connected);
}

ImageName new_image(Cluster& cluster, const std::string& pool, std::uint64_t size_bytes) {
  const ImageName name{pool, "", unique("contract")};
  ImageSpec spec;
  spec.size_bytes = size_bytes;
  spec.features = 61;  // RBD_FEATURES_DEFAULT
  const auto created = cluster.create_image(name, spec);
  if (!created) FAIL(created.error().message);
  return name;
}

bool wait_until(const std::function<bool()>& done, int seconds) {
  const auto deadline = world().system().monotonic_ms() + seconds * 1000;
  while (!done()) {
    if (world().system().monotonic_ms() > deadline) return false;
    world().system().sleep_ms(50);
  }
  return true;
}

}  // namespace poolshift::contract

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;  // as Automake and CTest's SKIP_RETURN_CODE have it
  std::string reason;
  const auto world = poolshift::contract::make_world(reason);
  if (!world) {
    std::cout << "skipped: " << reason << '\n';
    return kSkipped;
  }
  poolshift::contract::the_world = world.get();
  return Catch::Session().run(argc, argv);
}
