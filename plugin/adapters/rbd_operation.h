// A call of librbd that may never return (docs/adr/0012-calls-that-do-not-return.md). When another client holds an
// image's exclusive lock, librbd passes the request on to it; the answer can get lost although the work was done.
//
// Knows nothing of librbd: the unit tests run it with functions of their own.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>

#include "base/result.h"
#include "ports/storage.h"

namespace poolshift {

// Says how far the work is. False: nobody waits for it any longer; what this client does itself should end.
using Report = std::function<bool(std::uint64_t done, std::uint64_t total)>;
// Owns all that it uses, and returns librbd's result.
using Work = std::function<int(const Report&)>;

struct Pace {
  std::chrono::milliseconds ask_every{200};
  // The usual answer comes sooner. An effect that is seen must last for `settle`: the lock owner makes a change in
  // several steps, and it may be at the last ones.
  std::chrono::milliseconds look_every{1'000};
  std::chrono::milliseconds settle{1'000};
  // Without answer, report and effect. librbd repeats a request every 30 s: three repetitions.
  std::chrono::milliseconds silence{100'000};
};

struct Waiting {
  Watching watching = nullptr;                // asked at once and every now and then; may be empty
  WhileWaiting while_waiting = nullptr;       // asked every now and then; may be empty
  std::function<bool()> is_done = nullptr;    // asks the image whether the work has been done; may be empty
  std::function<void()> abandoned = nullptr;  // called once when the work is left to itself; may be empty
  Pace pace = {};
};

// Runs `work` in a thread of its own. Returns its result, or 0 when is_done() says so. Fails with `left` when
// `watching` says so, with the error of `while_waiting`, and with `unreachable` when nothing was heard for the time of
// silence. The thread then goes on by itself.
Result<int> run_bounded(Work work, const std::string& what, const Waiting& waiting);

// A thread that gets no signals: they are for the threads of the process that we are in. May throw std::system_error.
std::thread start_thread(std::function<void()> function);

}  // namespace poolshift
