#include "serial_log.h"

#include <algorithm>
#include <charconv>
#include <string_view>

namespace guest {
namespace {

std::vector<std::string_view> split(std::string_view line) {
  std::vector<std::string_view> words;
  while (!line.empty()) {
    const std::string_view word = line.substr(0, line.find(' '));
    words.push_back(word);
    line.remove_prefix(std::min(line.size(), word.size() + 1));
  }
  return words;
}

// All of WORDS from FIRST on as numbers, exactly COUNT of them: a line torn by the death of the guest does not pass.
std::optional<std::vector<std::uint64_t>> numbers(const std::vector<std::string_view>& words, std::size_t first,
                                                  std::size_t count) {
  if (words.size() != first + count) return std::nullopt;
  std::vector<std::uint64_t> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::string_view word = words[first + i];
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), values[i]);
    if (error != std::errc() || end != word.data() + word.size()) return std::nullopt;
  }
  return values;
}

// When, by the host's clock, the log had reached a given size.
class HostTimes {
 public:
  explicit HostTimes(const std::string& text) {
    std::string_view rest = text;
    for (std::size_t end = 0; (end = rest.find('\n')) != std::string_view::npos; rest.remove_prefix(end + 1)) {
      if (const auto values = numbers(split(rest.substr(0, end)), 0, 2))
        grown_.emplace_back((*values)[1], (*values)[0]);
    }
  }

  [[nodiscard]] bool empty() const { return grown_.empty(); }

  // To be called with growing offsets.
  std::uint64_t at(std::uint64_t offset) {
    while (next_ < grown_.size() && grown_[next_].first < offset) ++next_;
    return next_ < grown_.size() ? grown_[next_].second : 0;
  }

 private:
  std::vector<std::pair<std::uint64_t, std::uint64_t>> grown_;  // size, time
  std::size_t next_ = 0;
};

class Parser {
 public:
  Parser(SerialLog& log, const std::string& disk) : log_(log), disk_(disk) {}

  void line(std::string_view text, std::uint64_t host_us) {
    if (!text.empty() && text.back() == '\r') text.remove_suffix(1);
    const auto words = split(text);
    if (words.size() < 2 || words[1] != disk_ || words[0].empty()) return;
    const std::string_view kind = words[0];
    if (kind == "FILLED") {
      log_.filled = true;
    } else if (kind.size() == 1 && std::string_view("BSFAdDET").find(kind) != std::string_view::npos) {
      if (!record(kind.front(), words, host_us)) ++log_.unreadable_lines;
    }
  }

 private:
  bool record(char kind, const std::vector<std::string_view>& words, std::uint64_t host_us) {
    if (kind == 'E') return failure(words);
    const std::size_t count = kind == 'B' || kind == 'S' || kind == 'T' ? 2 : kind == 'd' ? 3 : kind == 'D' ? 5 : 4;
    const auto parsed = numbers(words, 2, count);
    if (!parsed) return false;
    const std::vector<std::uint64_t>& v = *parsed;
    if (kind == 'B') {
      log_.boots.push_back({v[0], v[0]});
      return true;
    }
    if (log_.boots.empty()) return false;
    switch (kind) {
      case 'S': log_.sizes_bytes.push_back(v[0]); break;
      case 'T': event(EventKind::tick, v[0], 0, 0, host_us); break;
      case 'A':
        block(v[1]).written = sequence(v[0]);
        event(EventKind::write, v[2], v[3], 1, host_us);
        break;
      case 'F':
        for (std::uint64_t i = 0; i < v[2]; ++i) block(v[1] + i).written = sequence(v[0] + i);
        event(EventKind::fill, v[3], 0, v[2], host_us);
        break;
      case 'd':
        for (std::uint64_t i = 0; i < v[2]; ++i) block(v[1] + i).maybe_discarded = sequence(v[0]);
        break;
      case 'D':
        for (std::uint64_t i = 0; i < v[2]; ++i) block(v[1] + i).discarded = sequence(v[0]);
        event(EventKind::discard, v[3], v[4], v[2], host_us);
        break;
      default: return false;
    }
    return true;
  }

  // E DISK OP SEQ BLOCK0 COUNT ERRNO US; OP "setup" has a text behind it
  bool failure(const std::vector<std::string_view>& words) {
    ++log_.errors;
    if (words.size() > 2 && words[2] == "setup") return true;
    const auto parsed = numbers(words, 3, 5);
    if (!parsed || log_.boots.empty()) return false;
    const std::uint64_t first = (*parsed)[0];
    const std::uint64_t block = (*parsed)[1];
    if (words[2] == "discard") return sequence(first) != 0;  // its announcement has said the rest
    for (std::uint64_t i = 0; i < (*parsed)[2]; ++i) log_.failed_writes[block + i].push_back(sequence(first + i));
    return true;
  }

  std::uint64_t sequence(std::uint64_t relative) {
    Boot& boot = log_.boots.back();
    const std::uint64_t absolute = boot.base + relative;
    boot.reported = std::max(boot.reported, absolute);
    return absolute;
  }

  Block& block(std::uint64_t number) {
    if (number >= log_.blocks.size()) log_.blocks.resize(number + 1);
    return log_.blocks[number];
  }

  void event(EventKind kind, std::uint64_t guest_us, std::uint64_t latency_us, std::uint64_t blocks,
             std::uint64_t host_us) {
    log_.events.push_back({kind, log_.boots.size(), guest_us, latency_us, blocks, host_us});
  }

  SerialLog& log_;
  const std::string& disk_;
};

// The longest silence between two events, any part of which lies in the window.
class Gap {
 public:
  Gap(std::uint64_t from, std::uint64_t to) : from_(from), to_(to) {}

  void event(std::uint64_t when) {
    if (last_ && when >= from_ && *last_ <= to_) longest_ = std::max(longest_, when - std::min(*last_, when));
    last_ = when;
  }

  // A new boot: the time that it took is no gap.
  void restart() { last_.reset(); }

  // Silence up to the end of the window counts too.
  [[nodiscard]] std::uint64_t longest() const {
    if (to_ == UINT64_MAX || !last_ || *last_ >= to_) return longest_;
    return std::max(longest_, to_ - std::max(*last_, from_));
  }

 private:
  std::uint64_t from_;
  std::uint64_t to_;
  std::optional<std::uint64_t> last_;
  std::uint64_t longest_ = 0;
};

}  // namespace

bool SerialLog::may_be_unreported(std::uint64_t sequence) const {
  for (std::size_t i = 0; i < boots.size(); ++i) {
    const std::uint64_t end = i + 1 < boots.size() ? boots[i + 1].base : UINT64_MAX;
    if (sequence > boots[i].reported && sequence <= end) return true;
  }
  return false;
}

SerialLog parse_serial_log(const std::string& text, const std::string& times, const std::string& disk) {
  SerialLog log;
  HostTimes host(times);
  log.has_host_times = !host.empty();
  Parser parser(log, disk);
  std::size_t from = 0;
  for (std::size_t end = 0; (end = text.find('\n', from)) != std::string::npos; from = end + 1) {
    parser.line(std::string_view(text).substr(from, end - from), host.at(end + 1));
  }
  return log;
}

Statistics statistics(const SerialLog& log, const Window& window) {
  Statistics result;
  const std::uint64_t from = window.from_us.value_or(0);
  const std::uint64_t to = window.to_us.value_or(UINT64_MAX);
  const std::uint64_t all = UINT64_MAX;
  const bool host = window.host_clock;
  // The window limits the clock it is given in; the other clock's gaps are limited by the events that fall into it.
  Gap write_gap(host ? 0 : from, host ? all : to);
  Gap alive_gap = write_gap;
  Gap write_gap_host(host ? from : 0, host ? to : all);
  Gap alive_gap_host = write_gap_host;
  std::vector<std::uint64_t> latencies;
  std::optional<std::uint64_t> first;
  std::uint64_t last = 0;
  std::uint64_t boot = 0;
  for (const Event& event : log.events) {
    if (event.boot != boot) {
      boot = event.boot;
      for (Gap* gap : {&write_gap, &alive_gap, &write_gap_host, &alive_gap_host}) gap->restart();
    }
    const std::uint64_t when = host ? event.host_us : event.guest_us;
    const bool inside = when >= from && when <= to;
    if (event.host_us != 0) {
      alive_gap_host.event(event.host_us);
      if (event.kind != EventKind::tick) write_gap_host.event(event.host_us);
    }
    if (!host || inside) {
      alive_gap.event(event.guest_us);
      if (event.kind != EventKind::tick) write_gap.event(event.guest_us);
    }
    if (!inside) continue;
    if (!first) first = when;
    last = when;
    switch (event.kind) {
      case EventKind::write: latencies.push_back(event.latency_us); break;
      case EventKind::fill: result.filled_blocks += event.blocks; break;
      case EventKind::discard:
        ++result.discards;
        result.longest_discard_us = std::max(result.longest_discard_us, event.latency_us);
        break;
      case EventKind::tick: break;
    }
  }
  result.writes = latencies.size();
  std::sort(latencies.begin(), latencies.end());
  if (!latencies.empty()) {
    result.longest_write_us = latencies.back();
    result.median_write_us = latencies[latencies.size() / 2];
    result.p99_write_us = latencies[latencies.size() * 99 / 100];
  }
  result.longest_write_gap_us = write_gap.longest();
  result.longest_alive_gap_us = alive_gap.longest();
  if (log.has_host_times) {
    result.longest_write_gap_host_us = write_gap_host.longest();
    result.longest_alive_gap_host_us = alive_gap_host.longest();
  }
  const std::uint64_t begin = window.from_us.value_or(first.value_or(0));
  result.window_us = std::max(window.to_us.value_or(last), begin) - begin;
  if (result.window_us != 0) {
    result.writes_per_s = static_cast<double>(result.writes) * 1e6 / static_cast<double>(result.window_us);
  }
  return result;
}

}  // namespace guest
