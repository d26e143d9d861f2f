// The serial log of a test guest (the lines are described in writer.cpp), read back for one of its disks.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace guest {

// What the log says of one block. Sequence numbers are the true ones (BASE added); 0: never.
struct Block {
  std::uint64_t written = 0;          // last acknowledged write
  std::uint64_t discarded = 0;        // last acknowledged discard
  std::uint64_t maybe_discarded = 0;  // last discard that failed or whose end was not reported
};

enum class EventKind { write, fill, discard, tick };

struct Event {
  EventKind kind{};
  std::uint64_t boot = 0;
  std::uint64_t guest_us = 0;
  std::uint64_t latency_us = 0;
  std::uint64_t blocks = 0;
  std::uint64_t host_us = 0;  // 0: not known
};

// Sequence numbers of one boot of the guest: BASE < ... <= reported.
struct Boot {
  std::uint64_t base = 0;
  std::uint64_t reported = 0;  // the highest in any line about an operation
};

struct SerialLog {
  std::vector<Boot> boots;
  std::vector<Block> blocks;  // by block number, as far as any line goes
  std::unordered_map<std::uint64_t, std::vector<std::uint64_t>> failed_writes;  // block -> sequence numbers
  std::vector<Event> events;
  std::vector<std::uint64_t> sizes_bytes;
  std::uint64_t errors = 0;
  std::uint64_t unreadable_lines = 0;
  bool filled = false;
  bool has_host_times = false;

  // An operation that was under way when the guest died, or whose report died with it.
  [[nodiscard]] bool may_be_unreported(std::uint64_t sequence) const;
};

// TEXT is the log; a last line without its end is ignored. TIMES is what guest-clock wrote beside it, or empty.
[[nodiscard]] SerialLog parse_serial_log(const std::string& text, const std::string& times, const std::string& disk);

struct Window {
  std::optional<std::uint64_t> from_us;
  std::optional<std::uint64_t> to_us;
  bool host_clock = false;
};

struct Statistics {
  std::uint64_t writes = 0;
  std::uint64_t discards = 0;
  std::uint64_t filled_blocks = 0;
  std::uint64_t longest_write_us = 0;
  std::uint64_t median_write_us = 0;
  std::uint64_t p99_write_us = 0;
  std::uint64_t longest_discard_us = 0;
  // By the guest's clock, which stands still while it is suspended, and by the host's.
  std::uint64_t longest_write_gap_us = 0;
  std::uint64_t longest_alive_gap_us = 0;
  std::optional<std::uint64_t> longest_write_gap_host_us;
  std::optional<std::uint64_t> longest_alive_gap_host_us;
  std::uint64_t window_us = 0;
  double writes_per_s = 0;
};

[[nodiscard]] Statistics statistics(const SerialLog& log, const Window& window);

}  // namespace guest
