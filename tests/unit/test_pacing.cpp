#include <catch2/catch.hpp>

#include "flow/guard.h"
#include "flow/pacing.h"

namespace poolshift {

namespace {

// A guest's counters, second by second.
struct Guest {
  DiskCounters counters;
  std::int64_t now_ms = 0;

  unsigned second_of(Pacing& pacing, std::uint64_t writes, std::uint64_t write_us) {
    now_ms += 1'000;
    counters.write_requests += writes;
    counters.write_time_ns += writes * write_us * 1'000;
    return pacing.look(now_ms, counters);
  }
};

}  // namespace

TEST_CASE("the hydration gives way to a guest whose writes become slow, and comes back") {
  Pacing pacing(10'000);
  Guest guest;
  guest.second_of(pacing, 100, 10'000);
  const auto first = pacing.in_flight();
  for (int i = 0; i < 10; ++i) guest.second_of(pacing, 20, 100'000);
  const auto least = pacing.in_flight();
  CHECK(least < first);
  CHECK(least > 0);
  for (int i = 0; i < 30; ++i) guest.second_of(pacing, 100, 12'000);
  const auto most = pacing.in_flight();
  CHECK(most > first);
  CHECK(guest.second_of(pacing, 100, 31'000) < most);
}

TEST_CASE("a guest that does not write is not waited for") {
  Pacing pacing(0);
  Guest guest;
  for (int i = 0; i < 5; ++i) guest.second_of(pacing, 0, 0);
  CHECK(pacing.in_flight() == 16);
}

TEST_CASE("a guardian's order comes back as it was given") {
  GuardOrder order;
  order.job_id = "0123456789ab";
  order.connect_uri = "qemu:///system";
  order.domain_uuid = "u";
  order.disk = "vda";
  order.target = {"ssd", "", "disk"};
  order.overlay_path = "/a b/\"c\".qcow2";
  order.resume = false;
  order.max_pause_ms = 1'500;
  const auto again = parse_guard_order(to_text(order));
  REQUIRE(again);
  CHECK(again->overlay_path == order.overlay_path);
  CHECK(again->target == order.target);
  CHECK_FALSE(again->resume);
  CHECK(again->max_pause_ms == 1'500);
  CHECK(to_text(*again) == to_text(order));
  CHECK(to_text(order).find('\n') == std::string::npos);
  CHECK_FALSE(parse_guard_order("{}"));
  CHECK_FALSE(parse_guard_order(R"({"schema":1,"disk":"vda"})"));
}

}  // namespace poolshift
