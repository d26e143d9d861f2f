// Calls of librbd that may never return, on functions that stand for them. Nothing here waits for a time to pass but
// the bound that a case is about, which is short.
#include <errno.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <future>
#include <memory>
#include <stdexcept>

#include "adapters/copy_window.h"
#include "adapters/rbd_operation.h"

namespace poolshift {

namespace {

using namespace std::chrono_literals;

constexpr Pace kQuick{1ms, 1ms, 1ms, 20ms};

// A call that does not return before the test says so.
struct Blocked {
  Blocked() : released(release.get_future().share()), is_over(over.get_future().share()) {}
  ~Blocked() {
    if (!is_released) let_go();
    is_over.wait();
  }
  void let_go() {
    is_released = true;
    release.set_value();
  }
  Work work(int result = 0) {
    return [this, result](const Report& report) {
      released.wait();
      goes_on = report(1, 1);
      over.set_value();
      return result;
    };
  }

  std::promise<void> release;
  std::promise<void> over;
  std::shared_future<void> released;
  std::shared_future<void> is_over;
  bool is_released = false;
  std::atomic<bool> goes_on = true;
};

}  // namespace

TEST_CASE("a call that returns gives its result", "[operation]") {
  int abandoned = 0;
  Waiting waiting;
  waiting.pace = kQuick;
  waiting.abandoned = [&] { ++abandoned; };
  const auto result = run_bounded([](const Report& report) { return report(1, 2) ? -ENOENT : 0; }, "Cannot", waiting);
  REQUIRE(result);
  CHECK(*result == -ENOENT);
  CHECK(abandoned == 0);
}

TEST_CASE("what the work owns is gone when its result is known", "[operation]") {
  auto owned = std::make_shared<int>(1);
  const std::weak_ptr<int> seen = owned;
  REQUIRE(run_bounded([owned = std::move(owned)](const Report&) { return 0; }, "Cannot", {}));
  CHECK(seen.expired());
}

TEST_CASE("a call that throws has failed", "[operation]") {
  const auto result = run_bounded([](const Report&) -> int { throw std::runtime_error("no memory"); }, "Cannot", {});
  REQUIRE(result);
  CHECK(*result == -EIO);
}

TEST_CASE("a call that does not return is unreachable after a time of silence", "[operation]") {
  Blocked blocked;
  int abandoned = 0;
  int looks = 0;
  Waiting waiting;
  waiting.pace = kQuick;
  waiting.abandoned = [&] { ++abandoned; };
  waiting.is_done = [&] { return ++looks < 0; };
  const auto result = run_bounded(blocked.work(), "Cannot set it", waiting);
  REQUIRE_FALSE(result);
  CHECK(result.error().code == ErrorCode::unreachable);
  CHECK(result.error().message.starts_with("Cannot set it: no answer"));
  CHECK(abandoned == 1);
  CHECK(looks > 0);
}

TEST_CASE("a call that reports is not silent", "[operation]") {
  std::atomic<int> left = 50;
  Waiting waiting;
  waiting.pace = {1ms, 1ms, 1ms, 10s};
  std::uint64_t seen = 0;
  waiting.watching = [&](std::uint64_t done, std::uint64_t) {
    seen = done;
    --left;
    return true;
  };
  const auto result = run_bounded(
      [&](const Report& report) {
        while (left > 0) report(7, 9);
        return 0;
      },
      "Cannot", waiting);
  REQUIRE(result);
  CHECK(seen == 7);
}

TEST_CASE("a call that does not return has succeeded when its effect is seen twice", "[operation]") {
  Blocked blocked;
  int abandoned = 0;
  int looks = 0;
  Waiting waiting;
  waiting.pace = {1ms, 1ms, 1ms, 60s};
  waiting.abandoned = [&] { ++abandoned; };
  // Seen, gone again, and then there to stay.
  waiting.is_done = [&] { return ++looks != 2; };
  const auto result = run_bounded(blocked.work(-EIO), "Cannot", waiting);
  REQUIRE(result);
  CHECK(*result == 0);
  CHECK(looks >= 4);
  CHECK(abandoned == 1);
}

TEST_CASE("who waits can stop, and what goes on hears it", "[operation]") {
  Waiting waiting;
  waiting.pace = {1ms, 1ms, 1ms, 60s};
  {
    Blocked blocked;
    waiting.watching = [](std::uint64_t, std::uint64_t) { return false; };
    const auto result = run_bounded(blocked.work(), "Cannot", waiting);
    REQUIRE_FALSE(result);
    CHECK(result.error().code == ErrorCode::left);
    blocked.let_go();
    blocked.is_over.wait();
    CHECK_FALSE(blocked.goes_on);
  }
  Blocked blocked;
  waiting.watching = nullptr;
  waiting.while_waiting = []() -> Status { return Error{ErrorCode::cancelled, "enough", "Go on later."}; };
  const auto result = run_bounded(blocked.work(), "Cannot", waiting);
  REQUIRE_FALSE(result);
  CHECK(result.error().code == ErrorCode::cancelled);
}

TEST_CASE("an exception of who waits does not end the process", "[operation]") {
  Blocked blocked;
  int abandoned = 0;
  Waiting waiting;
  waiting.pace = kQuick;
  waiting.watching = [](std::uint64_t, std::uint64_t) -> bool { throw std::runtime_error("no memory"); };
  waiting.abandoned = [&] {
    ++abandoned;
    throw std::runtime_error("none here either");
  };
  CHECK_THROWS_AS(run_bounded(blocked.work(), "Cannot", waiting), std::runtime_error);
  CHECK(abandoned == 1);
}

TEST_CASE("a window does not end before the callbacks that use it", "[operation]") {
  struct Promise {
    ~Promise() { promise.set_value(); }
    std::promise<void> promise;
  };
  std::thread callback;
  std::future<void> window_ended;
  std::future_status before_callback{};
  try {
    Promise after_window;
    window_ended = after_window.promise.get_future();
    CopyWindow window(4);
    window.begun();
    Promise before_window;
    callback = std::thread([&, leaving = before_window.promise.get_future()] {
      leaving.wait();
      before_callback = window_ended.wait_for(50ms);
      if (before_callback == std::future_status::timeout) window.ended(0);
    });
    throw std::runtime_error("no memory");
  } catch (const std::runtime_error&) {
  }
  callback.join();
  CHECK(before_callback == std::future_status::timeout);
}

}  // namespace poolshift
