// swap-report SAMPLES RESULTS PLOTS: what bench/run measured, as a report.
//
// SAMPLES has the conditions in its first line and then one swap a line, as bench/run writes them. Written are
// RESULTS/swap.json (every swap, medians, targets), RESULTS/swap.md (the same to be read) and PLOTS/LOAD-SIZE.gp for
// gnuplot, which draws the round of each engine that took the median time.

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace {

using nlohmann::ordered_json;
using Value = std::optional<double>;

constexpr double kMiB = 1024 * 1024;
constexpr double kGuestWriteBytes = 4096;
constexpr double kHugeBytes = 100 * 1024 * kMiB;

// --- what is measured ----------------------------------------------------------------------------------------------

Value number(const ordered_json& sample, const char* pointer) {
  const ordered_json::json_pointer path(pointer);
  if (!sample.contains(path) || !sample.at(path).is_number()) return std::nullopt;
  return sample.at(path).get<double>();
}

Value operator-(Value a, Value b) { return a && b ? Value(*a - *b) : std::nullopt; }
Value operator/(Value a, Value b) { return a && b && *b > 0 ? Value(*a / *b) : std::nullopt; }
Value operator*(Value a, double b) { return a ? Value(*a * b) : std::nullopt; }

Value seconds_until(const ordered_json& sample, const char* end) {
  return (number(sample, end) - number(sample, "/watch/began_at_us")) * 1e-6;
}

Value guest_on_target_s(const ordered_json& sample) { return seconds_until(sample, "/watch/guest_on_target_at_us"); }
Value done_s(const ordered_json& sample) { return seconds_until(sample, "/watch/ended_at_us"); }

// Only handover stops the guest.
Value pause_part_ms(const ordered_json& sample, const char* pointer) {
  const Value pause = number(sample, "/seconds/pause");
  return pause && *pause > 0 ? number(sample, pointer) * 1e3 : std::nullopt;
}

Value pause_ms(const ordered_json& sample) { return pause_part_ms(sample, "/seconds/pause"); }
Value snapshot_ms(const ordered_json& sample) { return pause_part_ms(sample, "/seconds/snapshot"); }

// The writes that the guest would have done at its rate before, less those that it did.
Value work_lost_writes(const ordered_json& sample) {
  const Value rate = number(sample, "/guest_before/writes_per_s");
  const Value done = done_s(sample);
  return rate && done ? Value(*rate * *done) - number(sample, "/guest_during/writes") : std::nullopt;
}

// Without what the guest itself wrote meanwhile.
Value client_mib(const ordered_json& sample) {
  const Value read = number(sample, "/watch/client_read_bytes");
  const Value written = number(sample, "/watch/client_written_bytes");
  if (!read || !written) return std::nullopt;
  const double guest = number(sample, "/guest_during/writes").value_or(0) * kGuestWriteBytes;
  return std::max(0.0, *read + *written - guest) / kMiB;
}

struct Metric {
  const char* name;
  std::function<Value(const ordered_json&)> of;
};

const std::vector<Metric> kMetrics = {
    {"guest_on_target_s", guest_on_target_s},
    {"done_s", done_s},
    {"longest_write_ms", [](const auto& s) { return number(s, "/guest_during/longest_write_us") * 1e-3; }},
    {"writes_per_s_before", [](const auto& s) { return number(s, "/guest_before/writes_per_s"); }},
    {"writes_per_s_over_before",
     [](const auto& s) { return number(s, "/guest_during/writes_per_s") / number(s, "/guest_before/writes_per_s"); }},
    {"work_lost_writes", work_lost_writes},
    {"pause_ms", pause_ms},
    {"pause_without_snapshot_ms", [](const auto& s) { return pause_ms(s) - snapshot_ms(s); }},
    {"client_mib", client_mib},
    {"target_used_over_source_used",
     [](const auto& s) { return number(s, "/target_used_bytes") / number(s, "/source_used_bytes"); }},
    {"peak_memory_mib", [](const auto& s) { return number(s, "/watch/peak_rss_bytes") * (1 / kMiB); }},
};

// --- what is made of it --------------------------------------------------------------------------------------------

struct Summary {
  Value median;
  Value worst;
};

Summary summarize(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return {values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2, values.back()};
}

double bytes_of(const std::string& size) {
  constexpr std::string_view kUnits = "KMGT";
  const auto unit = kUnits.find(size.back());
  return std::stod(size) * (unit == std::string_view::npos ? 1 : std::pow(1024, unit + 1));
}

class Results {
 public:
  explicit Results(std::istream& lines) {
    std::string line;
    while (std::getline(lines, line)) {
      ordered_json json = ordered_json::parse(line);
      if (json.contains("conditions")) {
        conditions_ = std::move(json["conditions"]);
      } else {
        samples_.push_back(std::move(json));
      }
    }
    if (conditions_.is_null() || samples_.empty()) throw std::runtime_error("there are no samples");
  }

  [[nodiscard]] const ordered_json& conditions() const { return conditions_; }
  [[nodiscard]] const std::vector<ordered_json>& samples() const { return samples_; }
  [[nodiscard]] std::vector<std::string> list(const char* name) const { return conditions_.at(name); }

  [[nodiscard]] std::vector<const ordered_json*> counted(const std::string& load, const std::string& size,
                                                         const std::string& engine) const {
    std::vector<const ordered_json*> found;
    for (const ordered_json& sample : samples_) {
      if (sample.at("load") == load && sample.at("size") == size && sample.at("engine") == engine &&
          sample.at("round") > 0) {
        found.push_back(&sample);
      }
    }
    return found;
  }

  [[nodiscard]] Summary of(const std::string& load, const std::string& size, const std::string& engine,
                           const std::string& metric) const {
    const auto& wanted =
        *std::find_if(kMetrics.begin(), kMetrics.end(), [&metric](const Metric& m) { return m.name == metric; });
    std::vector<double> values;
    for (const ordered_json* sample : counted(load, size, engine)) {
      if (const Value value = wanted.of(*sample)) values.push_back(*value);
    }
    return summarize(std::move(values));
  }

  [[nodiscard]] Value median(const std::string& load, const std::string& size, const std::string& engine,
                             const std::string& metric) const {
    return of(load, size, engine, metric).median;
  }

  [[nodiscard]] Value to_stock(const std::string& load, const std::string& size, const std::string& engine,
                               const std::string& metric) const {
    return median(load, size, engine, metric) / median(load, size, "stock", metric);
  }

  // The swap that took the median time, the quicker one of two.
  [[nodiscard]] const ordered_json* typical(const std::string& load, const std::string& size,
                                            const std::string& engine) const {
    auto samples = counted(load, size, engine);
    if (samples.empty()) return nullptr;
    const auto middle = samples.begin() + static_cast<std::ptrdiff_t>((samples.size() - 1) / 2);
    std::nth_element(samples.begin(), middle, samples.end(),
                     [](const auto* a, const auto* b) { return done_s(*a) < done_s(*b); });
    return *middle;
  }

 private:
  ordered_json conditions_;
  std::vector<ordered_json> samples_;
};

ordered_json to_json(Value value) { return value ? ordered_json(*value) : ordered_json(nullptr); }

// Calls EACH(load, size) for every scenario.
void for_scenarios(const Results& results, const std::function<void(const std::string&, const std::string&)>& each) {
  for (const std::string& size : results.list("sizes")) {
    for (const std::string& load : results.list("loads")) each(load, size);
  }
}

ordered_json medians(const Results& results) {
  ordered_json all = ordered_json::array();
  for_scenarios(results, [&](const std::string& load, const std::string& size) {
    for (const std::string& engine : results.list("engines")) {
      ordered_json one = {
          {"load", load}, {"size", size}, {"engine", engine}, {"rounds", results.counted(load, size, engine).size()}};
      for (const Metric& metric : kMetrics) {
        const Summary summary = results.of(load, size, engine, metric.name);
        one[metric.name] = {{"median", to_json(summary.median)},
                            {"worst", to_json(summary.worst)},
                            {"to_stock", to_json(results.to_stock(load, size, engine, metric.name))}};
      }
      all.push_back(std::move(one));
    }
  });
  return all;
}

// --- targets -------------------------------------------------------------------------------------------------------

struct Target {
  std::string what;
  std::string engine;
  std::string load;
  std::string size;
  int digits;
  Value measured;
  double limit;

  [[nodiscard]] bool reached() const { return measured && *measured <= limit; }

  [[nodiscard]] std::string verdict() const {
    if (!measured) return "not measured";
    return fmt::format("{}: {:.{}f} of {:.{}f} ({:+.0f} %)", reached() ? "reached" : "**missed**", *measured, digits,
                       limit, digits, (*measured / limit - 1) * 100);
  }
};

class Targets {
 public:
  explicit Targets(const Results& results) : results_(results) {
    for (const std::string& engine : results.list("engines")) {
      if (engine == "stock") continue;
      for_scenarios(results, [&](const std::string& load, const std::string& size) {
        if (engine == "mirror") {
          ratio("done, to stock", load, size, engine, "done_s", load == "idle" ? 0.9 : 1.05);
        } else {
          handover(load, size, engine);
        }
        add("peak memory of poolshift, worst, MiB", load, size, engine, 1,
            results.of(load, size, engine, "peak_memory_mib").worst, 200e6 / kMiB);
      });
      for (const std::string& load : results.list("loads")) compare_sizes(load, engine);
    }
  }

  [[nodiscard]] const std::vector<Target>& all() const { return all_; }

 private:
  void add(const std::string& what, const std::string& load, const std::string& size, const std::string& engine,
           int digits, Value measured, double limit) {
    all_.push_back({what, engine, load, size, digits, measured, limit});
  }

  void ratio(const std::string& what, const std::string& load, const std::string& size, const std::string& engine,
             const std::string& metric, double limit) {
    add(what, load, size, engine, 2, results_.to_stock(load, size, engine, metric), limit);
  }

  void handover(const std::string& load, const std::string& size, const std::string& engine) {
    const bool idle = load == "idle";
    ratio("done, to stock", load, size, engine, "done_s", bytes_of(size) >= kHugeBytes ? 1.0 : idle ? 0.75 : 0.65);
    if (!idle) {
      ratio("guest on the target, to stock", load, size, engine, "guest_on_target_s", 0.15);
      ratio("guest's work lost, to stock", load, size, engine, "work_lost_writes", 0.7);
      ratio("longest guest write, to stock", load, size, engine, "longest_write_ms", 1.0);
    }
    const Summary pause = results_.of(load, size, engine, "pause_without_snapshot_ms");
    add("pause less the snapshot, median, ms", load, size, engine, 0, pause.median, 150);
    add("pause less the snapshot, worst, ms", load, size, engine, 0, pause.worst, 300);
    // Zero, as far as that can be seen from outside: requests, maps and heartbeats have bytes too. A busy guest on a
    // clone brings in itself what it writes to first, so that the bulk can only be seen when it is idle.
    if (idle && engine == "handover-offload") {
      const double data_mib = bytes_of(results_.conditions().at("data")) / kMiB;
      add("bulk through clients (1 % of the data counts as none), MiB", load, size, engine, 1,
          results_.median(load, size, engine, "client_mib"), 0.01 * data_mib);
    }
  }

  // The smallest size against the largest, when that is huge.
  void compare_sizes(const std::string& load, const std::string& engine) {
    std::vector<std::string> sizes = results_.list("sizes");
    std::sort(sizes.begin(), sizes.end(), [](const auto& a, const auto& b) { return bytes_of(a) < bytes_of(b); });
    const std::string& small = sizes.front();
    const std::string& huge = sizes.back();
    if (bytes_of(huge) < kHugeBytes || small == huge) return;
    if (engine != "mirror") {
      // A fifth more is "the same seconds": the monitors' part in it, the snapshot, varies by more than that.
      add("guest on the target, seconds over those for " + small, load, huge, engine, 2,
          results_.median(load, huge, engine, "guest_on_target_s") /
              results_.median(load, small, engine, "guest_on_target_s"),
          1.2);
    }
    // Two bits for each object of 4 MiB, and what an allocator may keep by chance.
    const double object_map_mib = (bytes_of(huge) - bytes_of(small)) / (4 * kMiB) / 4 / kMiB;
    add("peak memory less that for " + small + ", MiB", load, huge, engine, 1,
        results_.median(load, huge, engine, "peak_memory_mib") -
            results_.median(load, small, engine, "peak_memory_mib"),
        object_map_mib + 4);
  }

  const Results& results_;
  std::vector<Target> all_;
};

ordered_json to_json(const std::vector<Target>& targets) {
  ordered_json all = ordered_json::array();
  for (const Target& target : targets) {
    all.push_back({{"what", target.what},
                   {"engine", target.engine},
                   {"load", target.load},
                   {"size", target.size},
                   {"measured", to_json(target.measured)},
                   {"limit", target.limit},
                   {"reached", target.measured ? ordered_json(target.reached()) : ordered_json(nullptr)}});
  }
  return all;
}

// --- Markdown ------------------------------------------------------------------------------------------------------

std::string text(Value value, int digits) { return value ? fmt::format("{:.{}f}", *value, digits) : "–"; }

void write_scenario(std::ostream& out, const Results& results, const std::string& load, const std::string& size) {
  const std::string guest =
      load == "idle" ? "an idle guest" : "a guest that asks for 400 random writes of 4 KiB a second";
  out << fmt::format("\n## {}, image of {}\n\n", load, size) << "With " << guest << ".\n\n"
      << "| engine | guest on target, s | to stock | done, s | to stock | longest write, ms | to stock "
         "| writes/s over before | work lost, writes | to stock | pause, ms | less snapshot, ms "
         "| through clients, MiB | target used over source used | peak memory, MiB |\n"
      << "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
  for (const std::string& engine : results.list("engines")) {
    const auto cell = [&](const char* metric, int digits) {
      const bool writes = std::string_view(metric).find("write") != std::string_view::npos;
      return writes && load == "idle" ? "–" : text(results.median(load, size, engine, metric), digits);
    };
    const auto ratio = [&](const char* metric) { return text(results.to_stock(load, size, engine, metric), 2); };
    out << fmt::format("| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n", engine,
                       cell("guest_on_target_s", 2), ratio("guest_on_target_s"), cell("done_s", 2), ratio("done_s"),
                       cell("longest_write_ms", 0), ratio("longest_write_ms"), cell("writes_per_s_over_before", 2),
                       cell("work_lost_writes", 0), ratio("work_lost_writes"), cell("pause_ms", 0),
                       cell("pause_without_snapshot_ms", 0), cell("client_mib", 1),
                       cell("target_used_over_source_used", 2), cell("peak_memory_mib", 0));
  }
  out << fmt::format("\n![The guest and the copy over time]({}-{}.svg)\n", load, size);
}

// A line for each target and engine, a column for each scenario.
void write_targets(std::ostream& out, const Results& results, const std::vector<Target>& targets) {
  const auto reached = std::count_if(targets.begin(), targets.end(), [](const Target& t) { return t.reached(); });
  out << fmt::format("{} of {} reached. \"0.60 of 0.75 (-20 %)\": measured, at most, difference.\n\n", reached,
                     targets.size())
      << "| target | engine |";
  std::string rule = "\n|---|---|";
  for_scenarios(results, [&](const std::string& load, const std::string& size) {
    out << fmt::format(" {}, {} |", load, size);
    rule += "---|";
  });
  out << rule << '\n';
  std::map<std::string, std::map<std::string, std::string>> rows;  // sorted: what belongs together stands together
  for (const Target& target : targets) {
    rows[fmt::format("| {} | {} |", target.what, target.engine)][target.load + target.size] = target.verdict();
  }
  for (auto& [row, cells] : rows) {
    out << row;
    for_scenarios(results, [&out, &cells = cells](const std::string& load, const std::string& size) {
      out << fmt::format(" {} |", cells[load + size]);
    });
    out << '\n';
  }
}

void write_markdown(std::ostream& out, const Results& results, const Targets& targets) {
  const ordered_json& c = results.conditions();
  const auto word = [&c](const char* name) {
    return c.at(name).is_string() ? c.at(name).get<std::string>() : c.at(name).dump();
  };
  out << "# Moving a disk: PoolShift against what stock Nova does\n\n"
      << fmt::format(
             "One run of `bench/run`: {} of data; rounds of each scenario: {}, after {} to warm up; the engines in "
             "turns, each "
             "in both directions. {} cores, {} OSDs on one node, guests under {}, Ceph {}, QEMU {}, libvirt {}. All "
             "figures "
             "are medians; \"to stock\" is the ratio of the medians of this run, and only those ratios mean something "
             "elsewhere.\n\n",
             word("data"), word("rounds"), word("warmups"), word("cores"), word("osds"),
             word("virt_type") == "kvm" ? "KVM" : "TCG", word("ceph"), word("qemu"), word("libvirt"))
      << "\"Guest on target\" and \"done\" count from the start of the command, seen from outside. Work lost: the "
         "writes "
         "that the guest would have done until done at its rate before, less those that it did. Through clients: what "
         "QEMU and the command received and sent over the network, without the guest's own writes. The guest's writes "
         "are timed by its own clock, which stands still in a pause.\n\n## Targets\n\n";
  write_targets(out, results, targets.all());
  for_scenarios(results, [&](const auto& load, const auto& size) { write_scenario(out, results, load, size); });
}

// --- plots ---------------------------------------------------------------------------------------------------------

const std::map<std::string, const char*> kColours = {
    {"stock", "#555555"}, {"mirror", "#0072B2"}, {"handover-offload", "#D55E00"}, {"handover-flatten", "#009E73"}};

// Of data blocks, which must not have a '-' in their names.
std::string block(const std::string& what, const std::string& engine) {
  std::string name = "$" + what + "_" + engine;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

struct Curve {
  std::string engine;
  const ordered_json* sample;
};

double final_objects(const ordered_json& sample) {
  return std::max(1.0, sample.at("watch").at("progress").back().at(1).get<double>());
}

void write_data(std::ostream& out, const Curve& curve) {
  const ordered_json& watch = curve.sample->at("watch");
  out << block("progress", curve.engine) << " << EOD\n";
  for (const ordered_json& look : watch.at("progress")) {
    out << fmt::format("{:.3f} {:.1f}\n", look.at(0).get<double>() * 1e-6,
                       100 * look.at(1).get<double>() / final_objects(*curve.sample));
  }
  out << "EOD\n" << block("guest", curve.engine) << " << EOD\n";
  if (const ordered_json& series = curve.sample->at("series"); !series.is_null()) {
    const double bucket_s = series.at("bucket_us").get<double>() * 1e-6;
    const double from_s = (series.at("from_us").get<double>() - watch.at("began_at_us").get<double>()) * 1e-6;
    for (std::size_t i = 0; i < series.at("writes").size(); ++i) {
      const auto writes = series.at("writes").at(i).get<double>();
      // No write, no latency: a gap in the curve.
      out << fmt::format(
          "{:.3f} {:.1f} {}\n", from_s + (static_cast<double>(i) + 0.5) * bucket_s, writes / bucket_s,
          writes > 0 ? fmt::format("{:.3f}", series.at("longest_write_us").at(i).get<double>() * 1e-3) : "NaN");
    }
  }
  out << "EOD\n";
}

// One line for each curve: COLUMNS of its data block WHAT.
void plot_lines(std::ostream& out, const std::vector<Curve>& curves, const char* what, const char* columns,
                bool titles) {
  std::vector<std::string> parts;
  for (const Curve& curve : curves) {
    parts.push_back(fmt::format("{} using {} with lines lw 1.6 lc rgb '{}' {}", block(what, curve.engine), columns,
                                kColours.at(curve.engine),
                                titles ? fmt::format("title '{}'", curve.engine) : std::string("notitle")));
  }
  out << "plot " << fmt::format("{}", fmt::join(parts, ", \\\n     ")) << '\n';
}

void write_plot(std::ostream& out, const std::string& load, const std::string& size, const std::vector<Curve>& curves) {
  const bool idle = load == "idle";
  double end_s = 1;
  for (const Curve& curve : curves) {
    write_data(out, curve);
    end_s = std::max(end_s, done_s(*curve.sample).value_or(0));
  }
  out << fmt::format("set terminal svg size 960,{} font 'sans-serif,13' background '#ffffff'\n", idle ? 380 : 860)
      << fmt::format(
             "set xrange [{}:{:.1f}]\nset grid lc rgb '#dddddd'\nset border lc rgb '#888888'\nset tics nomirror\n",
             idle ? 0 : -2, end_s + 1)
      << "set lmargin 10\nset rmargin 3\nset key outside top center horizontal\n";
  int arrow = 0;
  for (const Curve& curve : curves) {
    const auto mark = [&](Value at_s, const char* style) {
      if (!at_s) return;
      out << fmt::format(
          "set arrow {} from first {:.3f}, graph 0 to first {:.3f}, graph 1 nohead lw 1.2 {} lc rgb '{}'\n", ++arrow,
          *at_s, *at_s, style, kColours.at(curve.engine));
    };
    mark(guest_on_target_s(*curve.sample), "dt 3");
    mark(done_s(*curve.sample), "dt 1");
  }
  const std::string title = fmt::format(
      "{} guest, image of {}: the median round of each engine\\n{{/*0.8 dotted: the guest runs on the target; "
      "solid: done}}",
      load, size);
  out << fmt::format("set multiplot layout {},1 title \"{}\"\n", idle ? 1 : 3, title);
  if (!idle) {
    out << "set ylabel 'longest write, ms'\nset logscale y\n";
    plot_lines(out, curves, "guest", "1:3", true);
    out << "unset logscale y\nset yrange [0:*]\nset ylabel \"guest's writes a second\"\n";
    plot_lines(out, curves, "guest", "1:2", false);
  }
  out << "set yrange [0:105]\nset ylabel 'data on the target, %'\nset xlabel 'seconds since the start'\n";
  plot_lines(out, curves, "progress", "1:2", idle);
  out << "unset multiplot\n";
}

// --- the program ---------------------------------------------------------------------------------------------------

std::ofstream open_file(const std::string& path) {
  std::ofstream file(path);
  if (!file) throw std::runtime_error("cannot write '" + path + "': " + std::strerror(errno));
  return file;
}

void run(const std::string& samples_path, const std::string& results_folder, const std::string& plots_folder) {
  std::ifstream lines(samples_path);
  if (!lines) throw std::runtime_error("cannot read '" + samples_path + "': " + std::strerror(errno));
  const Results results(lines);
  const Targets targets(results);

  ordered_json all = {{"schema", 1},
                      {"conditions", results.conditions()},
                      {"medians", medians(results)},
                      {"targets", to_json(targets.all())}};
  for (ordered_json sample : results.samples()) {
    sample.erase("series");
    sample["watch"].erase("progress");
    all["swaps"].push_back(std::move(sample));
  }
  for_scenarios(results, [&](const std::string& load, const std::string& size) {
    std::vector<Curve> curves;
    for (const std::string& engine : results.list("engines")) {
      const ordered_json* const sample = results.typical(load, size, engine);
      if (sample == nullptr) continue;
      curves.push_back({engine, sample});
      all["plotted"].push_back({{"load", load},
                                {"size", size},
                                {"engine", engine},
                                {"round", sample->at("round")},
                                {"progress", sample->at("watch").at("progress")},
                                {"series", sample->at("series")}});
    }
    auto plot = open_file(fmt::format("{}/{}-{}.gp", plots_folder, load, size));
    write_plot(plot, load, size, curves);
  });
  open_file(results_folder + "/swap.json") << all.dump() << '\n';
  auto markdown = open_file(results_folder + "/swap.md");
  write_markdown(markdown, results, targets);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: swap-report SAMPLES RESULTS PLOTS\n";
    return 2;
  }
  try {
    run(argv[1], argv[2], argv[3]);
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "swap-report: " << error.what() << '\n';
    return 1;
  }
}
