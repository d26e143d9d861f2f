#include <catch2/catch.hpp>

#include "flow/convergence.h"

namespace poolshift {

namespace {
constexpr std::uint64_t kMiB = 1024 * 1024;
constexpr std::uint64_t kGiB = 1024 * kMiB;
}  // namespace

TEST_CASE("a long copy that comes nearer all the time is left alone") {
  Convergence convergence;
  for (std::int64_t second = 0; second < 5'000; ++second) {
    const auto copied = static_cast<std::uint64_t>(second) * 100 * kMiB;
    CHECK_FALSE(convergence.look(second * 1'000, {copied, 500 * kGiB, 0}, copied / 20));
  }
}

TEST_CASE("a guest that writes as fast as it is copied is limited, further each time") {
  Convergence convergence;
  std::uint64_t last = 100 * kMiB;
  int limits = 0;
  for (std::int64_t second = 0; second < 60; ++second) {
    const auto copied = static_cast<std::uint64_t>(second + 1) * 10 * kMiB;
    const auto written = static_cast<std::uint64_t>(second) * 8 * kMiB;
    if (const auto limit = convergence.look(second * 1'000, {copied, copied + kMiB, 0}, written)) {
      CHECK(*limit < last);
      last = *limit;
      ++limits;
    }
  }
  CHECK(limits > 3);
  CHECK(last == 32 * 1024);
}

TEST_CASE("a copy that stands still is no reason to limit the guest") {
  Convergence convergence;
  for (std::int64_t second = 0; second < 60; ++second) {
    const auto written = static_cast<std::uint64_t>(second) * kMiB;
    CHECK_FALSE(convergence.look(second * 1'000, {kMiB, 9 * kMiB + written, 0}, written));
  }
}

TEST_CASE("a limit of the user's own is only ever lowered, in its own form") {
  CHECK(lowered({0, 0}, 10) == WriteLimit{0, 10});
  CHECK(lowered({0, 5}, 10) == WriteLimit{0, 5});
  CHECK(lowered({0, 50}, 10) == WriteLimit{0, 10});
  CHECK(lowered({50, 0}, 10) == WriteLimit{10, 0});
  CHECK(lowered({5, 0}, 10) == WriteLimit{5, 0});
}

}  // namespace poolshift
