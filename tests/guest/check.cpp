// guest-check: compares what a test guest's disk was acknowledged to hold with what the image holds.
//
// The log is read before the image, so that it may be used on the image of a running guest too, as long as that guest
// does not discard. The whole image is read, holes included: what the guest would read is the truth, and a wrong object
// map must not hide anything. Of a huge image that is hardly used, --first reads the part in which the guest worked.
//
// --series adds to the JSON how the guest fared over time, by the host's clock, in buckets of equal length. Each list
// has one number for each bucket, and a write belongs to the bucket in which it returned:
//   "series": {"from_us": 1700000000000000, "bucket_us": 100000,
//              "writes": [20, 19, 0], "longest_write_us": [6100, 9000, 0], "mean_write_us": [2300, 2412, 0]}

#include <algorithm>
#include <array>
#include <boost/program_options.hpp>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <rados/librados.hpp>
#include <rbd/librbd.hpp>
#include <sstream>
#include <stdexcept>
#include <string>

#include "serial_log.h"
#include "stamp.h"

namespace {

namespace po = boost::program_options;
using guest::SerialLog;
using nlohmann::ordered_json;
using stamp::kBlockBytes;

constexpr std::uint64_t kReadBytes = 4u << 20;
constexpr std::size_t kReadsInFlight = 8;
constexpr std::size_t kViolationsShown = 10;

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Failure("cannot read '" + path + "': " + std::strerror(errno));
  std::ostringstream text;
  text << file.rdbuf();
  return std::move(text).str();
}

// --- where the blocks come from ------------------------------------------------------------------------------------

using Sink = std::function<void(std::uint64_t offset, const char* data, std::size_t size)>;

void check_result(int result, const std::string& what) {
  if (result < 0) throw Failure(what + ": " + std::strerror(-result));
}

class RbdImage {
 public:
  RbdImage(const std::string& conf, const std::string& id, const std::string& spec, const std::string& snapshot) {
    const std::size_t first = spec.find('/');
    const std::size_t last = spec.rfind('/');
    if (first == std::string::npos) throw Failure("'" + spec + "' is not POOL[/NAMESPACE]/IMAGE");
    const std::string pool = spec.substr(0, first);
    check_result(cluster_.init(id.c_str()), "librados");
    check_result(cluster_.conf_read_file(conf.c_str()), "cannot read '" + conf + "'");
    cluster_.conf_set("rbd_cache", "false");
    check_result(cluster_.connect(), "cannot connect to the cluster of '" + conf + "'");
    check_result(cluster_.ioctx_create(pool.c_str(), pool_), "cannot open pool '" + pool + "'");
    if (last != first) pool_.set_namespace(spec.substr(first + 1, last - first - 1));
    check_result(librbd::RBD().open_read_only(pool_, image_, spec.substr(last + 1).c_str(),
                                              snapshot.empty() ? nullptr : snapshot.c_str()),
                 "cannot open image '" + spec + (snapshot.empty() ? "" : "@" + snapshot) + "'");
  }

  std::uint64_t size() {
    std::uint64_t bytes = 0;
    check_result(image_.size(&bytes), "size of the image");
    return bytes;
  }

  // As far as LIMIT_BYTES.
  void read_all(std::uint64_t limit_bytes, const Sink& sink) {
    struct Read {
      std::uint64_t offset;
      std::size_t length;
      ceph::bufferlist data;
      librbd::RBD::AioCompletion* done;
    };
    const std::uint64_t end = std::min(size(), limit_bytes);
    std::deque<std::unique_ptr<Read>> reads;
    for (std::uint64_t offset = 0; offset < end || !reads.empty();) {
      if (offset < end && reads.size() < kReadsInFlight) {
        const auto length = static_cast<std::size_t>(std::min(kReadBytes, end - offset));
        reads.push_back(
            std::make_unique<Read>(Read{offset, length, {}, new librbd::RBD::AioCompletion(nullptr, nullptr)}));
        check_result(image_.aio_read(offset, length, reads.back()->data, reads.back()->done), "read");
        offset += length;
        continue;
      }
      const auto read = std::move(reads.front());
      reads.pop_front();
      read->done->wait_for_complete();
      const auto result = read->done->get_return_value();
      read->done->release();
      check_result(static_cast<int>(result), "cannot read the image at offset " + std::to_string(read->offset));
      sink(read->offset, read->data.c_str(), read->data.length());
    }
  }

 private:
  librados::Rados cluster_;
  librados::IoCtx pool_;
  librbd::Image image_;
};

void read_file(const std::string& path, std::uint64_t limit_bytes, const Sink& sink) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Failure("cannot read '" + path + "': " + std::strerror(errno));
  std::string buffer(kReadBytes, '\0');
  for (std::uint64_t offset = 0; file && offset < limit_bytes; offset += buffer.size()) {
    file.read(buffer.data(), static_cast<std::streamsize>(std::min(kReadBytes, limit_bytes - offset)));
    sink(offset, buffer.data(), static_cast<std::size_t>(file.gcount()));
  }
}

// --- verification --------------------------------------------------------------------------------------------------

class Verifier {
 public:
  Verifier(const SerialLog& log, const std::string& disk) : log_(log), disk_(disk), code_(stamp::disk_code(disk)) {}

  void read(std::uint64_t offset, const char* data, std::size_t size) {
    for (std::size_t at = 0; at + kBlockBytes <= size; at += kBlockBytes) {
      stamp::Words words;
      std::memcpy(words.data(), data + at, kBlockBytes);
      verify((offset + at) / kBlockBytes, words);
    }
  }

  void finish() {
    for (std::uint64_t number = blocks_; number < log_.blocks.size(); ++number) {
      if (log_.blocks[number].written != 0) violation(number, "was written but lies beyond the end of the image");
    }
  }

  [[nodiscard]] bool ok() const { return violations_ == 0; }
  [[nodiscard]] const std::vector<std::string>& shown() const { return shown_; }

  [[nodiscard]] ordered_json counts() const {
    return {{"read", blocks_},
            {"acknowledged_and_right", right_},
            {"newer_than_acknowledged", newer_},
            {"never_written_and_zero", untouched_},
            {"discarded_and_zero", discarded_zero_},
            {"discarded_and_kept", discarded_kept_},
            {"violations", violations_}};
  }

 private:
  void verify(std::uint64_t number, const stamp::Words& words) {
    blocks_ = std::max(blocks_, number + 1);
    const guest::Block block = number < log_.blocks.size() ? log_.blocks[number] : guest::Block{};
    const std::uint64_t discarded = std::max(block.discarded, block.maybe_discarded);
    if (stamp::is_zero(words)) {
      if (block.written == 0 && discarded == 0) {
        ++untouched_;
      } else if (discarded > block.written) {
        ++discarded_zero_;
      } else {
        violation(number, "is zero but its write " + sequence(block.written) + " was acknowledged");
      }
      return;
    }
    if (words[stamp::kMagicWord] != stamp::kMagic) return violation(number, "holds what no guest wrote");
    if (!stamp::is_valid(words)) return violation(number, "is damaged: its checksum is wrong");
    if (words[stamp::kDiskWord] != code_) return violation(number, "holds a block of another disk");
    if (words[stamp::kBlockWord] != number) {
      return violation(number, "holds the content of block " + std::to_string(words[stamp::kBlockWord]));
    }
    verify_sequence(number, block, discarded, words[stamp::kSequenceWord]);
  }

  void verify_sequence(std::uint64_t number, const guest::Block& block, std::uint64_t discarded, std::uint64_t found) {
    if (found == block.written) {
      ++(block.discarded > block.written ? discarded_kept_ : right_);
    } else if (found > block.written && (log_.may_be_unreported(found) || failed(number, found))) {
      ++newer_;
    } else if (discarded > block.written && found < discarded) {
      ++discarded_kept_;  // a discard may leave what was there, however old
    } else if (found < block.written) {
      violation(number, "is old: it holds write " + sequence(found) + " but write " + sequence(block.written) +
                            " was acknowledged");
    } else {
      violation(number, "holds write " + sequence(found) + ", of which the log knows nothing");
    }
  }

  [[nodiscard]] bool failed(std::uint64_t number, std::uint64_t sequence) const {
    const auto found = log_.failed_writes.find(number);
    return found != log_.failed_writes.end() && std::ranges::count(found->second, sequence) != 0;
  }

  // As it stands in the log, where it counts from the boot's base.
  [[nodiscard]] std::string sequence(std::uint64_t absolute) const {
    for (std::size_t i = log_.boots.size(); i-- > 0;) {
      if (absolute > log_.boots[i].base) {
        std::string text = std::to_string(absolute - log_.boots[i].base);
        return i == 0 ? text : text + " of boot " + std::to_string(i + 1);
      }
    }
    return std::to_string(absolute) + " of an unknown boot";
  }

  void violation(std::uint64_t number, const std::string& what) {
    if (violations_++ < kViolationsShown) {
      shown_.push_back(disk_ + " block " + std::to_string(number) + " (offset " + std::to_string(number * kBlockBytes) +
                       ") " + what);
    }
  }

  const SerialLog& log_;
  const std::string disk_;
  const std::uint64_t code_;
  std::uint64_t blocks_ = 0;
  std::uint64_t right_ = 0;
  std::uint64_t newer_ = 0;
  std::uint64_t untouched_ = 0;
  std::uint64_t discarded_zero_ = 0;
  std::uint64_t discarded_kept_ = 0;
  std::uint64_t violations_ = 0;
  std::vector<std::string> shown_;
};

ordered_json to_json(const guest::Statistics& s) {
  ordered_json json = {{"writes", s.writes},
                       {"discards", s.discards},
                       {"filled_blocks", s.filled_blocks},
                       {"window_us", s.window_us},
                       {"writes_per_s", s.writes_per_s},
                       {"median_write_us", s.median_write_us},
                       {"p99_write_us", s.p99_write_us},
                       {"longest_write_us", s.longest_write_us},
                       {"longest_discard_us", s.longest_discard_us},
                       {"longest_write_gap_us", s.longest_write_gap_us},
                       {"longest_alive_gap_us", s.longest_alive_gap_us}};
  if (s.longest_write_gap_host_us) json["longest_write_gap_host_us"] = *s.longest_write_gap_host_us;
  if (s.longest_alive_gap_host_us) json["longest_alive_gap_host_us"] = *s.longest_alive_gap_host_us;
  return json;
}

ordered_json series(const SerialLog& log, const guest::Window& window, std::uint64_t bucket_us) {
  const std::uint64_t from = *window.from_us;
  const std::size_t buckets = (*window.to_us - from + bucket_us - 1) / bucket_us;
  std::vector<std::uint64_t> writes(buckets), longest(buckets), mean(buckets);
  for (const guest::Event& event : log.events) {
    if (event.kind != guest::EventKind::write || event.host_us < from || event.host_us >= *window.to_us) continue;
    const std::size_t bucket = (event.host_us - from) / bucket_us;
    ++writes[bucket];
    longest[bucket] = std::max(longest[bucket], event.latency_us);
    mean[bucket] += event.latency_us;
  }
  for (std::size_t i = 0; i < buckets; ++i) {
    if (writes[i] != 0) mean[i] /= writes[i];
  }
  return {{"from_us", from},
          {"bucket_us", bucket_us},
          {"writes", writes},
          {"longest_write_us", longest},
          {"mean_write_us", mean}};
}

// --- the program ---------------------------------------------------------------------------------------------------

struct Arguments {
  std::string conf, id, image, snapshot, file, disk, log, times;
  guest::Window window;
  std::uint64_t first_bytes = UINT64_MAX;
  std::uint64_t series_ms = 0;
  bool stats_only = false;
  bool json = false;
};

// Throws po::error for what is wrong, returns false if only help was wanted.
bool parse(int argc, char** argv, Arguments& a) {
  std::uint64_t from = 0, to = 0, host_from = 0, host_to = 0;
  po::options_description options("guest-check: is all that the guest was promised in the image?");
  // clang-format off
  options.add_options()
    ("help,h", "this text")
    ("conf", po::value(&a.conf), "ceph.conf")
    ("id", po::value(&a.id)->default_value("admin"), "cephx user without 'client.'")
    ("image", po::value(&a.image), "POOL[/NAMESPACE]/IMAGE")
    ("snap", po::value(&a.snapshot), "a snapshot of it")
    ("file", po::value(&a.file), "a raw file instead of an image")
    ("disk", po::value(&a.disk)->required(), "name of the disk in the guest, such as vda")
    ("log", po::value(&a.log)->required(), "serial log of the guest")
    ("times", po::value(&a.times), "host's times of it (LOG.times if that exists)")
    ("first", po::value(&a.first_bytes), "read only so many bytes of the image, in which all writes must lie")
    ("series", po::value(&a.series_ms), "add to the JSON the writes over time, in buckets of so many ms")
    ("stats-only", po::bool_switch(&a.stats_only), "do not read the image")
    ("json", po::bool_switch(&a.json), "report as JSON")
    ("from-us", po::value(&from), "statistics from here, uptime of the guest")
    ("to-us", po::value(&to), "statistics to here, uptime of the guest")
    ("host-from-us", po::value(&host_from), "the same by the host's clock, since 1970")
    ("host-to-us", po::value(&host_to), "the same by the host's clock, since 1970");
  // clang-format on
  po::variables_map given;
  po::store(po::parse_command_line(argc, argv, options), given);
  if (given.count("help") != 0) {
    std::cout << options;
    return false;
  }
  po::notify(given);
  const bool guest_window = given.count("from-us") + given.count("to-us") != 0;
  a.window.host_clock = given.count("host-from-us") + given.count("host-to-us") != 0;
  if (guest_window && a.window.host_clock) throw po::error("a window is either by the guest's or by the host's clock");
  if (given.count("from-us") != 0) a.window.from_us = from;
  if (given.count("to-us") != 0) a.window.to_us = to;
  if (given.count("host-from-us") != 0) a.window.from_us = host_from;
  if (given.count("host-to-us") != 0) a.window.to_us = host_to;
  if (given.count("series") != 0) {
    if (a.series_ms == 0) throw po::error("--series wants buckets that are longer than nothing");
    if (given.count("host-from-us") + given.count("host-to-us") != 2 || host_from > host_to) {
      throw po::error("--series needs --host-from-us and, not before it, --host-to-us");
    }
  }
  if (!a.stats_only && a.image.empty() == a.file.empty()) throw po::error("either --image or --file must be given");
  if (!a.stats_only && !a.image.empty() && a.conf.empty()) throw po::error("--image needs --conf");
  return true;
}

SerialLog read_log(const Arguments& a) {
  const std::string text = read_text(a.log);
  std::string times;
  if (!a.times.empty()) {
    times = read_text(a.times);
  } else if (std::ifstream(a.log + ".times")) {
    times = read_text(a.log + ".times");
  }
  SerialLog log = guest::parse_serial_log(text, times, a.disk);
  if (log.boots.empty()) throw Failure("'" + a.log + "' has no line of a writer on '" + a.disk + "'");
  if (a.window.host_clock && !log.has_host_times) throw Failure("there are no host times of '" + a.log + "'");
  return log;
}

int run(const Arguments& a) {
  const SerialLog log = read_log(a);
  const guest::Statistics stats = guest::statistics(log, a.window);
  if (!a.stats_only && log.blocks.size() > a.first_bytes / kBlockBytes) {
    throw Failure("the guest worked as far as byte " + std::to_string(log.blocks.size() * kBlockBytes) +
                  ", beyond those that --first leaves");
  }
  Verifier verifier(log, a.disk);
  ordered_json report = {{"schema", 1}, {"ok", true}, {"disk", a.disk}};
  report["log"] = {{"boots", log.boots.size()},
                   {"errors", log.errors},
                   {"unreadable_lines", log.unreadable_lines},
                   {"filled", log.filled},
                   {"sizes_bytes", log.sizes_bytes}};
  if (!a.stats_only) {
    const Sink sink = [&](std::uint64_t offset, const char* data, std::size_t size) {
      verifier.read(offset, data, size);
    };
    if (a.file.empty()) {
      RbdImage(a.conf, a.id, a.image, a.snapshot).read_all(a.first_bytes, sink);
    } else {
      read_file(a.file, a.first_bytes, sink);
    }
    verifier.finish();
    report["ok"] = verifier.ok();
    report["image"] = a.file.empty() ? a.image : a.file;
    report["blocks"] = verifier.counts();
    report["violations"] = verifier.shown();
  }
  report["statistics"] = to_json(stats);
  if (a.series_ms != 0) report["series"] = series(log, a.window, a.series_ms * 1000);
  if (a.json) {
    std::cout << report.dump(2) << '\n';
  } else {
    for (const std::string& violation : verifier.shown()) std::cout << violation << '\n';
    if (!a.stats_only) {
      std::cout << (verifier.ok() ? "all right: " : "NOT RIGHT: ") << report["blocks"].dump() << '\n';
    }
    std::cout << report["statistics"].dump() << '\n';
  }
  return verifier.ok() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Arguments arguments;
    return parse(argc, argv, arguments) ? run(arguments) : 0;
  } catch (const std::exception& error) {
    // Not 1, which says that the data is wrong.
    std::cerr << "guest-check: " << error.what() << '\n';
    return 2;
  }
}
