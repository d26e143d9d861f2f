#include "config.h"

#include <fmt/core.h>

#include <boost/program_options/errors.hpp>
#include <boost/program_options/options_description.hpp>
#include <boost/program_options/parsers.hpp>
#include <sstream>
#include <vector>

#include "text.h"

namespace poolshift::cli {

namespace po = boost::program_options;

namespace {

constexpr std::size_t kMaxConfigBytes = 64 * 1024;
constexpr const char* kPage = "See poolshift.conf(5).";

po::options_description known_options() {
  po::options_description known;
  for (const auto& option : kConfigOptions) known.add_options()(option.name, po::value<std::string>());
  return known;
}

Failure unknown_option(const std::string& name, const std::string& place) {
  std::vector<std::string> names;
  for (const auto& option : kConfigOptions) names.emplace_back(option.name);
  const auto near = nearest(name, names);
  return usage_error(fmt::format("there is no option '{}', which is in {}", name, place),
                     near.empty() ? kPage : fmt::format("Did you mean '{}'? {}", near, kPage));
}

// Nothing, for an empty line or a comment; else name and value. Boost.Program_options tells what it found only by
// exceptions, and not in which line; they end here.
Outcome<std::vector<po::option>> parse_line(const std::string& line, const po::options_description& known,
                                            const std::string& place) {
  const auto first = line.find_first_not_of(" \t");
  if (first != std::string::npos && line[first] == '[') {
    return usage_error(fmt::format("there is a section in {}", place), "Leave it out: the file has no sections.");
  }
  std::istringstream stream(line);
  try {
    return po::parse_config_file(stream, known).options;
  } catch (const po::unknown_option& error) {
    return unknown_option(error.get_option_name(), place);
  } catch (const po::error&) {
    return usage_error(fmt::format("{} is neither NAME = VALUE nor a comment", place), kPage);
  }
}

}  // namespace

Outcome<Config> read_config(System& system, const std::string& file) {
  const bool is_named = !file.empty();
  const std::string path = is_named ? file : kConfigFile;
  const auto text = system.read_trusted_file(path, kMaxConfigBytes);
  if (!text && text.error().code == ErrorCode::not_found && !is_named) return Config{};
  if (!text) {
    const bool is_distrusted = text.error().code == ErrorCode::damaged;
    return usage_error("the configuration file cannot be used: " + text.error().message,
                       is_distrusted ? "It has to be a file that only root, or you, can write." : text.error().advice);
  }
  const auto known = known_options();
  Config config;
  std::istringstream lines(*text);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    const auto place = fmt::format("line {} of '{}'", number, path);
    if (!is_utf8(line)) return usage_error(place + " is not UTF-8", "Write all text as UTF-8.");
    const auto options = parse_line(line, known, place);
    if (!options) return options.failure();
    for (const auto& option : *options) {
      const auto& name = option.string_key;
      const auto& value = option.value.front();
      if (const auto before = config.find(name); before != config.end()) {
        return usage_error(fmt::format("'{}' in {} is given before, in {}", name, place, before->second.place),
                           "Give it once.");
      }
      config[name] = {value, place};
    }
  }
  for (const auto& option : kConfigOptions) {
    const auto given = config.find(option.name);
    if (!option.is_path || given == config.end()) continue;
    const auto& [value, place] = given->second;
    if (value.starts_with('/') || (value == "-" && option.name == std::string_view("log-file"))) continue;
    return usage_error(fmt::format("'{}' in {} is '{}', which is no absolute path", option.name, place, value),
                       "Give a path from the root.");
  }
  return config;
}

}  // namespace poolshift::cli
