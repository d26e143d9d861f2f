// The workload of a test guest: one process per disk, started by the guest's /init as
//
//   guest-writer vda mode=random,rate=400,span=64M,fill=32M
//
// Every block written is stamped (stamp.h), and an operation is reported on the serial port only after it has returned:
// what is in the log is what the disk promised to hold. One line is one write(2), which the tty layer keeps whole.
//
//   B vda BASE US                 this boot's writer starts; true sequence number = BASE + SEQ of the lines that follow
//   S vda SIZE_BYTES US           size of the disk, at the start and whenever it changes
//   F vda SEQ0 BLOCK0 COUNT US    COUNT consecutive blocks from BLOCK0 on hold the sequence numbers from SEQ0 on
//   FILLED vda US                 the fill is complete ("FILLED vda US kept": an earlier boot had done it)
//   A vda SEQ BLOCK US LATENCY_US     one block written
//   d vda SEQ BLOCK0 COUNT            a discard is about to begin
//   D vda SEQ BLOCK0 COUNT US LATENCY_US   it has returned
//   E vda OP SEQ BLOCK0 COUNT ERRNO US     OP (write, discard, fill) failed: the blocks may be either old or new
//   T vda US SEQ                  once a second, from a thread of its own: alive, SEQ operations begun
//
// US is the guest's uptime, which stands still while the guest is suspended.

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cinttypes>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "stamp.h"

namespace {

using stamp::kBlockBytes;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kFillChunkBytes = kMiB;

struct Options {
  std::string mode = "idle";
  std::uint64_t rate = 0;         // operations per second, 0: as many as possible
  std::uint64_t start_bytes = 0;  // all work is done from here on
  std::uint64_t span_bytes = 0;   // 0: to the end of the disk
  std::uint64_t fill_bytes = 0;
  std::uint64_t spread_bytes = 0;  // the fill is spread evenly over so much; 0: it is contiguous
  std::uint64_t region_bytes = kMiB;
  std::uint64_t chunk_bytes = 64 * kKiB;  // of a discard
  std::uint64_t tick_ms = 1000;
  std::uint64_t seed = 0;
};

std::uint64_t clock_us(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000 + static_cast<std::uint64_t>(now.tv_nsec) / 1000;
}

std::uint64_t uptime_us() { return clock_us(CLOCK_MONOTONIC); }

void sleep_until_us(std::uint64_t when_us) {
  const timespec when{static_cast<time_t>(when_us / 1'000'000), static_cast<long>(when_us % 1'000'000 * 1000)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, nullptr) == EINTR) {
  }
}

class Serial {
 public:
  explicit Serial(const char* path) : fd_(open(path, O_WRONLY | O_NOCTTY | O_CLOEXEC)) {
    termios settings{};
    if (fd_ >= 0 && tcgetattr(fd_, &settings) == 0) {
      cfmakeraw(&settings);
      tcsetattr(fd_, TCSANOW, &settings);
    }
    if (fd_ < 0) fd_ = STDOUT_FILENO;
  }

  [[gnu::format(printf, 2, 3)]] void line(const char* format, ...) const {
    char text[200];
    va_list arguments;
    va_start(arguments, format);
    const int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    const char* from = text;
    std::size_t left = std::min(static_cast<std::size_t>(length), sizeof text - 1);
    while (left > 0) {
      const ssize_t written = write(fd_, from, left);
      if (written < 0 && errno != EINTR) return;
      if (written > 0) {
        from += written;
        left -= static_cast<std::size_t>(written);
      }
    }
  }

  // Until all that was written has left the (emulated) wire and so is in the host's file.
  void drain() const { tcdrain(fd_); }

 private:
  int fd_;
};

[[noreturn]] void fail(const Serial& serial, const std::string& disk, const std::string& what) {
  serial.line("E %s setup 0 0 0 %d %" PRIu64 " %s\n", disk.c_str(), errno, uptime_us(), what.c_str());
  std::exit(1);
}

bool parse_size(std::string_view text, std::uint64_t& value) {
  if (text.empty()) return false;
  std::uint64_t unit = 1;
  switch (text.back()) {
    case 'K': unit = kKiB; break;
    case 'M': unit = kMiB; break;
    case 'G': unit = kKiB * kMiB; break;
    default: break;
  }
  if (unit != 1) text.remove_suffix(1);
  if (text.empty()) return false;
  value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return false;
    value = value * 10 + static_cast<std::uint64_t>(c - '0');
  }
  value *= unit;
  return true;
}

bool parse_options(std::string_view text, Options& options, std::string& error) {
  const struct {
    std::string_view name;
    std::uint64_t& value;
  } numbers[] = {{"rate", options.rate},         {"start", options.start_bytes},   {"span", options.span_bytes},
                 {"fill", options.fill_bytes},   {"spread", options.spread_bytes}, {"region", options.region_bytes},
                 {"chunk", options.chunk_bytes}, {"tick", options.tick_ms},        {"seed", options.seed}};
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), word.size() + 1));
    const std::size_t equals = word.find('=');
    const std::string_view name = word.substr(0, equals);
    const std::string_view value = equals == std::string_view::npos ? "" : word.substr(equals + 1);
    bool understood = false;
    if (name == "mode") {
      options.mode = value;
      understood =
          value == "idle" || value == "random" || value == "sequential" || value == "hot" || value == "discard";
    }
    for (const auto& number : numbers) {
      if (name == number.name) understood = parse_size(value, number.value);
    }
    if (!understood) {
      error = "cannot understand '" + std::string(word) + "'";
      return false;
    }
  }
  return true;
}

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t below(std::uint64_t bound) { return stamp::mix(state_++) % bound; }

 private:
  std::uint64_t state_;
};

class Writer {
 public:
  Writer(std::string disk, Options options, const Serial& serial)
      : disk_(std::move(disk)), code_(stamp::disk_code(disk_)), options_(std::move(options)), serial_(serial) {
    const std::string path = "/dev/" + disk_;
    // The disk may be plugged in later.
    while ((fd_ = open(path.c_str(), O_RDWR | O_DIRECT | O_DSYNC | O_CLOEXEC)) < 0) {
      if (errno != ENOENT && errno != ENXIO) fail(serial_, disk_, "open");
      sleep_until_us(uptime_us() + 100'000);
    }
    void* memory = nullptr;
    if (posix_memalign(&memory, kBlockBytes, kFillChunkBytes) != 0) fail(serial_, disk_, "memory");
    buffer_ = static_cast<unsigned char*>(memory);
    // Sequence numbers grow over reboots too: room for 2^20 operations in each second since the last boot.
    constexpr std::uint64_t kEpochS = 1'700'000'000;
    base_ = (clock_us(CLOCK_REALTIME) / 1'000'000 - kEpochS) << 20;
    serial_.line("B %s %" PRIu64 " %" PRIu64 "\n", disk_.c_str(), base_, uptime_us());
    report_size();
    lay_out();
  }

  [[noreturn]] void run() {
    std::thread(&Writer::tick, this).detach();
    fill();
    work();
  }

 private:
  void report_size() {
    std::uint64_t size = 0;
    if (ioctl(fd_, BLKGETSIZE64, &size) != 0 || size == size_bytes_) return;
    size_bytes_ = size;
    serial_.line("S %s %" PRIu64 " %" PRIu64 "\n", disk_.c_str(), size, uptime_us());
  }

  void lay_out() {
    const std::uint64_t start = std::min(options_.start_bytes, size_bytes_.load());
    std::uint64_t span = size_bytes_ - start;
    if (options_.span_bytes != 0) span = std::min(span, options_.span_bytes);
    first_block_ = start / kBlockBytes;
    span_blocks_ = span / kBlockBytes;
    hot_blocks_ =
        std::clamp<std::uint64_t>(options_.region_bytes / kBlockBytes, 1, std::max<std::uint64_t>(span_blocks_, 1));
    chunk_blocks_ = std::max<std::uint64_t>(options_.chunk_bytes / kBlockBytes, 1);
    if (span_blocks_ < 1 || span_blocks_ < chunk_blocks_) fail(serial_, disk_, "span");
  }

  [[noreturn]] void tick() {
    for (std::uint64_t next = uptime_us();; next = std::max(next + options_.tick_ms * 1000, uptime_us())) {
      sleep_until_us(next);
      report_size();
      serial_.line("T %s %" PRIu64 " %" PRIu64 "\n", disk_.c_str(), uptime_us(), sequence_.load());
    }
  }

  // Stamps COUNT blocks into the buffer, from the next sequence number on, which is returned.
  std::uint64_t stamp_blocks(std::uint64_t block, std::uint64_t count) {
    const std::uint64_t first = sequence_ + 1;
    const std::uint64_t now = uptime_us();
    for (std::uint64_t i = 0; i < count; ++i) {
      stamp::Words words;
      stamp::fill(words, code_, block + i, base_ + first + i, now);
      std::memcpy(buffer_ + i * kBlockBytes, words.data(), kBlockBytes);
    }
    sequence_ += count;
    return first;
  }

  int write_buffer(std::uint64_t block, std::uint64_t count) {
    std::uint64_t done = 0;
    while (done < count * kBlockBytes) {
      const ssize_t written =
          pwrite(fd_, buffer_ + done, count * kBlockBytes - done, static_cast<off_t>(block * kBlockBytes + done));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return written == 0 ? ENOSPC : errno;
      done += static_cast<std::uint64_t>(written);
    }
    return 0;
  }

  void report_error(const char* operation, std::uint64_t sequence, std::uint64_t block, std::uint64_t count,
                    int error) {
    serial_.line("E %s %s %" PRIu64 " %" PRIu64 " %" PRIu64 " %d %" PRIu64 "\n", disk_.c_str(), operation, sequence,
                 block, count, error, uptime_us());
    sleep_until_us(uptime_us() + 50'000);  // do not drown the log
  }

  std::uint64_t fill_chunk_block(std::uint64_t chunk, std::uint64_t chunks) const {
    const std::uint64_t contiguous = chunk * kFillChunkBytes;
    if (options_.spread_bytes <= chunks * kFillChunkBytes) return first_block_ + contiguous / kBlockBytes;
    const std::uint64_t stride = options_.spread_bytes / chunks / kBlockBytes * kBlockBytes;
    return first_block_ + chunk * stride / kBlockBytes;
  }

  bool is_stamped(std::uint64_t block) {
    stamp::Words words{};
    if (pread(fd_, buffer_, kBlockBytes, static_cast<off_t>(block * kBlockBytes)) != kBlockBytes) return false;
    std::memcpy(words.data(), buffer_, kBlockBytes);
    return stamp::is_valid(words) && words[stamp::kDiskWord] == code_ && words[stamp::kBlockWord] == block;
  }

  void fill() {
    const std::uint64_t disk_blocks = size_bytes_ / kBlockBytes;
    const std::uint64_t chunks = (options_.fill_bytes + kFillChunkBytes - 1) / kFillChunkBytes;
    const std::uint64_t chunk_blocks = kFillChunkBytes / kBlockBytes;
    // A fill that an earlier boot completed stays: to write it again would hide what happened to it.
    if (chunks > 0 && is_stamped(fill_chunk_block(chunks - 1, chunks))) {
      serial_.line("FILLED %s %" PRIu64 " kept\n", disk_.c_str(), uptime_us());
      return;
    }
    for (std::uint64_t chunk = 0; chunk < chunks; ++chunk) {
      const std::uint64_t block = fill_chunk_block(chunk, chunks);
      if (block >= disk_blocks) break;
      const std::uint64_t count = std::min(chunk_blocks, disk_blocks - block);
      const std::uint64_t sequence = stamp_blocks(block, count);
      if (const int error = write_buffer(block, count); error != 0) {
        report_error("fill", sequence, block, count, error);
      } else {
        serial_.line("F %s %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", disk_.c_str(), sequence, block, count,
                     uptime_us());
      }
    }
    serial_.line("FILLED %s %" PRIu64 "\n", disk_.c_str(), uptime_us());
  }

  void write_block(std::uint64_t block) {
    const std::uint64_t sequence = stamp_blocks(block, 1);
    const std::uint64_t before = uptime_us();
    const int error = write_buffer(block, 1);
    const std::uint64_t after = uptime_us();
    if (error != 0) return report_error("write", sequence, block, 1, error);
    serial_.line("A %s %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", disk_.c_str(), sequence, block, after,
                 after - before);
  }

  void discard(std::uint64_t block, std::uint64_t count) {
    const std::uint64_t sequence = ++sequence_;
    // Unlike a write, a discard destroys what was acknowledged: announce it, and be sure that the host has read it.
    serial_.line("d %s %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", disk_.c_str(), sequence, block, count);
    serial_.drain();
    std::uint64_t range[2] = {block * kBlockBytes, count * kBlockBytes};
    const std::uint64_t before = uptime_us();
    const int error = ioctl(fd_, BLKDISCARD, range) == 0 ? 0 : errno;
    const std::uint64_t after = uptime_us();
    if (error != 0) return report_error("discard", sequence, block, count, error);
    serial_.line("D %s %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", disk_.c_str(), sequence, block,
                 count, after, after - before);
  }

  [[noreturn]] void work() {
    if (options_.mode == "idle") {
      for (;;) pause();
    }
    Random random(options_.seed != 0 ? options_.seed : stamp::mix(base_ ^ code_));
    const std::uint64_t interval_us = options_.rate == 0 ? 0 : 1'000'000 / options_.rate;
    std::uint64_t next = uptime_us();
    for (std::uint64_t turn = 0;; ++turn) {
      step(turn, random);
      if (interval_us != 0) {
        // Who was late does not make up for it: the rate is a ceiling, not an average.
        next = std::max(next + interval_us, uptime_us());
        sleep_until_us(next);
      }
    }
  }

  void step(std::uint64_t turn, Random& random) {
    if (options_.mode == "sequential") return write_block(first_block_ + turn % span_blocks_);
    if (options_.mode == "hot") return write_block(first_block_ + random.below(hot_blocks_));
    if (options_.mode == "discard" && random.below(4) == 0) {
      return discard(first_block_ + random.below(span_blocks_ / chunk_blocks_) * chunk_blocks_, chunk_blocks_);
    }
    write_block(first_block_ + random.below(span_blocks_));
  }

  const std::string disk_;
  const std::uint64_t code_;
  const Options options_;
  const Serial& serial_;
  int fd_ = -1;
  unsigned char* buffer_ = nullptr;
  std::uint64_t base_ = 0;
  std::atomic<std::uint64_t> sequence_ = 0;
  std::atomic<std::uint64_t> size_bytes_ = 0;
  std::uint64_t first_block_ = 0;
  std::uint64_t span_blocks_ = 0;
  std::uint64_t hot_blocks_ = 0;
  std::uint64_t chunk_blocks_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  const Serial serial("/dev/ttyS0");
  const std::string disk = argc > 1 ? argv[1] : "";
  Options options;
  std::string error = "usage: guest-writer DISK mode=...,...";
  if (argc != 3 || !parse_options(argv[2], options, error)) {
    errno = EINVAL;
    fail(serial, disk.empty() ? "none" : disk, error);
  }
  Writer(disk, options, serial).run();
}
