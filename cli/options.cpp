#include "options.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <boost/program_options/errors.hpp>
#include <boost/program_options/parsers.hpp>
#include <boost/program_options/variables_map.hpp>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <sstream>

#include "adapters/posix_system.h"
#include "base/paths.h"
#include "build_tree.h"
#include "config.h"
#include "sizes.h"
#include "text.h"

namespace poolshift::cli {

namespace po = boost::program_options;

namespace {

constexpr unsigned kHelpColumns = 100;
constexpr unsigned kMostParallel = 64;
constexpr unsigned kMostAttempts = 1000;
constexpr unsigned kDrainAttempts = 3;  // somebody waits for it
constexpr const char* kJobs = "JOB";    // the positional arguments, kept out of the help

po::typed_value<std::string>* text(const char* value_name) { return po::value<std::string>()->value_name(value_name); }

po::options_description host_options() {
  po::options_description group("Options of every command", kHelpColumns);
  auto add = group.add_options();
  add("connect", text("URI"), "libvirt's URI (default: $LIBVIRT_DEFAULT_URI, else qemu:///system)");
  add("config", text("FILE"),
      "configuration file with defaults for these options (default: $POOLSHIFT_CONFIG, else "
      "/etc/poolshift/poolshift.conf)");
  add("ceph-conf", text("FILE"),
      "Ceph configuration file to reach the cluster with (default: $CEPH_CONF, else what the domain's XML "
      "says)");
  add("state-dir", text("DIR"), "folder of the journals (default: $POOLSHIFT_STATE_DIR, else /var/lib/poolshift)");
  add("overlay-dir", text("DIR"),
      "folder for the file that is on the disk while a handover pauses the guest; QEMU's user must be able to pass "
      "through it (default: $POOLSHIFT_OVERLAY_DIR, else 'overlays' in the state folder)");
  add("guardian", text("FILE"),
      "the program that ends such a pause when poolshift does not (default: $POOLSHIFT_GUARDIAN, else the installed "
      "one, else that of the build tree)");
  add("patience", text("SECONDS"), "how long libvirtd or the cluster may be away before a job is held (default: 60)");
  add("log-file", text("FILE"), "append the library's log to FILE; '-' is stderr (default: no log)");
  add("verbose,v", po::bool_switch(), "log details too; to stderr when there is no --log-file");
  add("help,h", po::bool_switch(), "print this help");
  return group;
}

// The words of a command line, and what the configuration file has for options that are not among them.
struct Values : po::variables_map {
  std::map<std::string, std::string> places;  // of the options that are from the file: where they stand

  void take(const std::string& name, const ConfigValue& value) {
    insert({name, po::variable_value(boost::any(value.text), true)});
    places[name] = value.place;
  }
};

// How a message names an option.
std::string named(const Values& values, const std::string& name) {
  const auto place = values.places.find(name);
  return place == values.places.end() ? fmt::format("'--{}'", name) : fmt::format("'{}' in {}", name, place->second);
}

std::string from_environment(const char* variable, const char* otherwise) {
  const char* value = std::getenv(variable);
  return value && *value ? value : otherwise;
}

// The library may use the path later from somewhere else ('recover'). Ceph expands "~" and "$cluster" by
// itself.
std::string absolute(const std::string& path) {
  if (path.empty() || path == "-" || path[0] == '/' || path[0] == '~' || path[0] == '$') return path;
  std::error_code ignored;
  const auto full = std::filesystem::absolute(path, ignored);
  return full.empty() ? path : full.string();
}

std::string help_advice(const Command& command) { return fmt::format("See 'poolshift {} --help'.", command.name); }

std::vector<std::string> names_of(const po::options_description& options) {
  std::vector<std::string> names;
  for (const auto& option : options.options()) names.push_back("--" + option->long_name());
  return names;
}

Failure unknown_option(const Command& command, const std::string& word, const po::options_description& known) {
  const auto near = nearest(word.substr(0, word.find('=')), names_of(known));
  const auto message = fmt::format("there is no option '{}'", word);
  if (near.empty()) return usage_error(message, help_advice(command));
  return usage_error(message, fmt::format("Did you mean '{}'? {}", near, help_advice(command)));
}

// Boost.Program_options tells what it found only by exceptions; they end here.
Failure syntax_failure(const Command& command, const po::error& error, const po::options_description& known) {
  if (const auto* unknown = dynamic_cast<const po::unknown_option*>(&error)) {
    return unknown_option(command, unknown->get_option_name(), known);
  }
  if (const auto* twice = dynamic_cast<const po::multiple_occurrences*>(&error)) {
    return usage_error(fmt::format("'{}' is given more than once", twice->get_option_name()), "Give it once.");
  }
  if (const auto* syntax = dynamic_cast<const po::invalid_command_line_syntax*>(&error)) {
    const auto name = syntax->get_option_name();
    if (syntax->kind() == po::invalid_syntax::extra_parameter) {
      return usage_error(fmt::format("'{}' takes no value, but is given one", name), "Leave out what follows the '='.");
    }
    return usage_error(fmt::format("'{}' needs a value, and none is given", name),
                       fmt::format("Give one; if it begins with '-', write {}=VALUE.", name));
  }
  return usage_error(fmt::format("the arguments cannot be read: {}", error.what()), help_advice(command));
}

Outcome<Values> parse_words(const Command& command, const std::vector<std::string>& arguments,
                            const po::options_description& known) {
  po::options_description all;
  all.add(known);
  all.add_options()(kJobs, po::value<std::vector<std::string>>());
  po::positional_options_description positional;
  positional.add(kJobs, -1);
  namespace style = po::command_line_style;
  try {
    Values values;
    // No guessing of shortened names: scripts would break when an option is added.
    po::store(po::command_line_parser(arguments)
                  .options(all)
                  .positional(positional)
                  .style(style::unix_style & ~style::allow_guessing)
                  .run(),
              values);
    return values;
  } catch (const po::error& error) {
    return syntax_failure(command, error, known);
  }
}

bool given(const Values& values, const char* name) { return values.count(name) != 0; }

std::string text_of(const Values& values, const char* name, const std::string& otherwise = "") {
  return given(values, name) ? values[name].as<std::string>() : otherwise;
}

bool flag_of(const Values& values, const char* name) { return given(values, name) && values[name].as<bool>(); }

Outcome<std::string> choice_of(const Values& values, const char* name, const std::vector<std::string>& choices) {
  const auto word = text_of(values, name, choices.front());
  std::string list;
  for (const auto& choice : choices) {
    if (word == choice) return word;
    list += (list.empty() ? "" : choice == choices.back() ? " or " : ", ") + choice;
  }
  return usage_error(fmt::format("{} is given '{}', which it does not know", named(values, name), word),
                     fmt::format("Give {}.", list));
}

// Empty: not given. So are the following.
Outcome<std::optional<std::uint64_t>> patience_of(const Values& values) {
  if (!given(values, "patience")) return std::optional<std::uint64_t>();
  const auto word = text_of(values, "patience");
  constexpr std::uint64_t kMost = 24 * 3600;
  std::uint64_t seconds = 0;
  bool digits = !word.empty() && word.size() <= 6;
  for (char c : word) {
    digits = digits && c >= '0' && c <= '9';
    if (digits) seconds = seconds * 10 + static_cast<std::uint64_t>(c - '0');
  }
  if (digits && seconds >= 1 && seconds <= kMost) return std::optional(seconds);
  return usage_error(fmt::format("{} is given '{}'", named(values, "patience"), word),
                     fmt::format("Give whole seconds from 1 to {}.", kMost));
}

Outcome<std::optional<std::uint64_t>> max_pause_of(const Values& values) {
  if (!given(values, "max-pause")) return std::optional<std::uint64_t>();
  const auto word = text_of(values, "max-pause");
  constexpr double kLeastS = 0.5;
  constexpr double kMostS = 60;
  const bool digits = !word.empty() && word.find_first_not_of("0123456789.") == std::string::npos;
  const double seconds = digits ? std::strtod(word.c_str(), nullptr) : 0;
  if (seconds >= kLeastS && seconds <= kMostS) return std::optional(static_cast<std::uint64_t>(seconds * 1000));
  return usage_error(fmt::format("{} is given '{}'", named(values, "max-pause"), word),
                     fmt::format("Give seconds from {} to {}.", kLeastS, kMostS));
}

Outcome<std::optional<std::uint64_t>> bandwidth_of(const Values& values) {
  if (!given(values, "bandwidth")) return std::optional<std::uint64_t>();
  const auto bandwidth = parse_bandwidth(text_of(values, "bandwidth"));
  if (bandwidth) return std::optional(*bandwidth);
  return usage_error(fmt::format("{}: {}", named(values, "bandwidth"), bandwidth.failure().message),
                     bandwidth.failure().advice);
}

Outcome<std::string> engine_of(const Values& values) {
  return choice_of(values, "engine", {"auto", "mirror", "handover"});
}
Outcome<std::string> hydrate_of(const Values& values) {
  return choice_of(values, "hydrate", {"auto", "offload", "flatten"});
}
Outcome<std::string> source_after_of(const Values& values) { return choice_of(values, "source", {"keep", "trash"}); }

// An empty value is never meant: a script's variable was empty. Nor is another option's name: a value was
// forgotten, and Boost.Program_options takes the next word for it.
Outcome<bool> check_values(const Values& values, const po::options_description& known) {
  const auto names = names_of(known);
  for (const auto& [name, value] : values) {
    const auto* word = boost::any_cast<std::string>(&value.value());
    if (!word) continue;
    if (word->empty()) {
      return usage_error(fmt::format("{} is given an empty value", named(values, name)),
                         "Give a value, or leave the option out.");
    }
    if (std::find(names.begin(), names.end(), word->substr(0, word->find('='))) != names.end()) {
      return usage_error(fmt::format("{} needs a value, and is followed by '{}'", named(values, name), *word),
                         "Give a value.");
    }
  }
  return true;
}

Outcome<bool> check_arguments_utf8(const std::vector<std::string>& arguments) {
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (!is_utf8(arguments[i])) {
      return usage_error(fmt::format("argument {} after the command is not UTF-8", i + 1), "Give all text as UTF-8.");
    }
  }
  return true;
}

Outcome<HostOptions> host_of(const Values& values) {
  HostOptions host;
  host.connect = text_of(values, "connect", from_environment("LIBVIRT_DEFAULT_URI", "qemu:///system"));
  host.ceph_conf = absolute(text_of(values, "ceph-conf", from_environment("CEPH_CONF", "")));
  host.state_dir =
      absolute(text_of(values, "state-dir", from_environment("POOLSHIFT_STATE_DIR", "/var/lib/poolshift")));
  host.log_file = absolute(text_of(values, "log-file"));
  host.overlay_dir = absolute(text_of(values, "overlay-dir", from_environment("POOLSHIFT_OVERLAY_DIR", "")));
  host.guardian = absolute(text_of(values, "guardian", from_environment("POOLSHIFT_GUARDIAN", "")));
  const bool is_installed = access(kGuardianPath, F_OK) == 0;
  if (host.guardian.empty() && !is_installed) host.guardian = guardian_of_build_tree(running_program());
  host.verbose = flag_of(values, "verbose");
  for (const auto* value : {&host.connect, &host.ceph_conf, &host.state_dir, &host.overlay_dir, &host.guardian}) {
    if (!is_utf8(*value)) {
      return usage_error(
          "one of LIBVIRT_DEFAULT_URI, CEPH_CONF, POOLSHIFT_STATE_DIR, POOLSHIFT_OVERLAY_DIR and POOLSHIFT_GUARDIAN is "
          "not UTF-8",
          "Set it to UTF-8 text, or give the option.");
    }
  }
  const auto patience = patience_of(values);
  if (!patience) return patience.failure();
  host.patience_s = *patience;
  for (const char* name : {"config", "connect", "ceph-conf", "state-dir"}) {
    if (given(values, name) && !values.places.contains(name))
      host.as_given += fmt::format(" --{} {}", name, shell_quoted(text_of(values, name)));
  }
  return host;
}

Outcome<RequestOptions> request_of(const Command& command, const Values& values) {
  for (const char* name : {"domain", "disk", "to"}) {
    if (!given(values, name)) {
      return usage_error(fmt::format("'--{}' is missing", name),
                         fmt::format("Usage: poolshift {} {}", command.name, command.synopsis));
    }
  }
  RequestOptions request{text_of(values, "domain"),
                         text_of(values, "disk"),
                         text_of(values, "to"),
                         text_of(values, "from"),
                         flag_of(values, "create"),
                         "",
                         "",
                         "",
                         std::nullopt};
  const auto engine = engine_of(values);
  if (!engine) return engine.failure();
  request.engine = *engine;
  const auto hydrate = hydrate_of(values);
  if (!hydrate) return hydrate.failure();
  request.hydrate = *hydrate;
  const auto max_pause_ms = max_pause_of(values);
  if (!max_pause_ms) return max_pause_ms.failure();
  request.max_pause_ms = *max_pause_ms;
  const auto source = source_after_of(values);
  if (!source) return source.failure();
  request.source_after = *source;
  return request;
}

// A pool, or with `with_namespace` POOL/NAMESPACE too.
bool is_pool(const std::string& word, bool with_namespace) {
  const auto slash = word.find('/');
  if (word.find('@') != std::string::npos) return false;
  if (slash == std::string::npos) return true;
  return with_namespace && slash > 0 && slash + 1 < word.size() && word.find('/', slash + 1) == std::string::npos;
}

Outcome<DrainOptions> drain_of(const Command& command, const Values& values) {
  for (const char* name : {"from", "to"}) {
    if (!given(values, name)) {
      return usage_error(fmt::format("'--{}' is missing", name),
                         fmt::format("Usage: poolshift {} {}", command.name, command.synopsis));
    }
    if (const auto word = text_of(values, name); !is_pool(word, std::string_view(name) == "to")) {
      return usage_error(fmt::format("'--{}' is given '{}', which is no pool", name, word), "Give the name of a pool.");
    }
  }
  DrainOptions drain;
  drain.from = text_of(values, "from");
  drain.to = text_of(values, "to");
  if (drain.from == drain.to) {
    return usage_error(fmt::format("'--from' and '--to' are both '{}'", drain.from), "Give two pools.");
  }
  drain.match = text_of(values, "match");
  drain.openstack = flag_of(values, "openstack");
  const auto engine = engine_of(values);
  if (!engine) return engine.failure();
  drain.engine = *engine;
  const auto source = source_after_of(values);
  if (!source) return source.failure();
  drain.source_after = *source;
  return drain;
}

// A whole number from 1 to `most`.
Outcome<unsigned> count_of(const Values& values, const char* name, unsigned otherwise, unsigned most) {
  if (!given(values, name)) return otherwise;
  const auto word = text_of(values, name);
  unsigned number = 0;
  if (!word.empty() && word.size() <= 4 && word.find_first_not_of("0123456789") == std::string::npos) {
    for (const char c : word) number = number * 10 + static_cast<unsigned>(c - '0');
  }
  if (number >= 1 && number <= most) return number;
  return usage_error(fmt::format("{} is given '{}'", named(values, name), word),
                     fmt::format("Give a whole number from 1 to {}.", most));
}

Outcome<std::string> job_of(const Command& command, const Values& values) {
  const auto words = given(values, kJobs) ? values[kJobs].as<std::vector<std::string>>() : std::vector<std::string>();
  if (command.job == JobArgument::words) return std::string();
  const std::size_t most = command.job == JobArgument::none ? 0 : 1;
  if (words.size() > most) {
    return usage_error(fmt::format("'{}' is one argument too many", words[most]),
                       fmt::format("Usage: poolshift {} {}", command.name, command.synopsis));
  }
  if (words.empty() && command.job == JobArgument::required) {
    return usage_error("no job is named", "Give the job's id; 'poolshift status' lists them.");
  }
  if (!words.empty() && words[0].empty()) {
    return usage_error("the job's id is empty", "Give the job's id; 'poolshift status' lists them.");
  }
  return words.empty() ? "" : words[0];
}

Outcome<ProgressChoice> progress_of(const Values& values) {
  const auto word = choice_of(values, "progress", {"auto", "bar", "json", "none"});
  if (!word) return word.failure();
  if (*word == "bar") return ProgressChoice::bar;
  if (*word == "json") return ProgressChoice::json;
  if (*word == "none") return ProgressChoice::none;
  return ProgressChoice::automatic;
}

po::options_description all_options(const Command& command) {
  po::options_description all(kHelpColumns);
  const auto own = command.own_options();
  if (!own.options().empty()) all.add(own);
  all.add(host_options());
  return all;
}

// All of the file, also what this command does not need: what is wrong in it is seen at once.
Outcome<bool> check_config(const Config& config, const po::options_description& known) {
  Values values;
  for (const auto& [name, value] : config) values.take(name, value);
  if (const auto checked = check_values(values, known); !checked) return checked.failure();
  for (const auto& choice : {engine_of(values), hydrate_of(values), source_after_of(values)}) {
    if (!choice) return choice.failure();
  }
  for (const auto& number : {patience_of(values), max_pause_of(values), bandwidth_of(values)}) {
    if (!number) return number.failure();
  }
  for (const auto& count :
       {count_of(values, "parallel", 1, kMostParallel), count_of(values, "attempts", 1, kMostAttempts)}) {
    if (!count) return count.failure();
  }
  return true;
}

// Adds what the configuration file has for options of this command. The command line counts most, then the
// environment, then the file.
Outcome<bool> add_config(const Command& command, Values& values) {
  const auto all = all_options(command);
  const auto system = make_posix_system();
  const auto config =
      read_config(*system, absolute(text_of(values, "config", from_environment("POOLSHIFT_CONFIG", ""))));
  if (!config) return config.failure();
  if (const auto checked = check_config(*config, all); !checked) return checked.failure();
  // A job that runs is changed by what is asked for now, not by a default.
  const auto wanted = command.job == JobArgument::required ? host_options() : all;
  for (const auto& option : kConfigOptions) {
    const auto found = config->find(option.name);
    if (found == config->end() || given(values, option.name) || !wanted.find_nothrow(option.name, false)) continue;
    if (option.environment && !from_environment(option.environment, "").empty()) continue;
    values.take(option.name, found->second);
  }
  return true;
}

Outcome<Options> options_of(const Command& command, Values values) {
  Options options;
  options.help = flag_of(values, "help");
  if (options.help) return options;
  if (const auto checked = check_values(values, all_options(command)); !checked) return checked.failure();
  if (const auto added = add_config(command, values); !added) return added.failure();
  options.json = flag_of(values, "json");
  options.dry_run = flag_of(values, "dry-run");
  options.watch = flag_of(values, "watch");
  options.nova_conf = text_of(values, "nova-conf");
  options.metrics_file = absolute(text_of(values, "metrics-file"));
  options.write = flag_of(values, "write");
  const auto job = job_of(command, values);
  if (!job) return job.failure();
  options.job = *job;
  if (given(values, kJobs)) options.words = values[kJobs].as<std::vector<std::string>>();
  options.policy_dir =
      absolute(text_of(values, "policy-dir", from_environment("POOLSHIFT_POLICY_DIR", "/etc/poolshift/policy.d")));
  const auto host = host_of(values);
  if (!host) return host.failure();
  options.host = *host;
  const auto progress = progress_of(values);
  if (!progress) return progress.failure();
  options.progress = *progress;
  const auto bandwidth = bandwidth_of(values);
  if (!bandwidth) return bandwidth.failure();
  options.bandwidth_bytes_per_s = *bandwidth;
  const auto parallel = count_of(values, "parallel", options.worker.parallel, kMostParallel);
  if (!parallel) return parallel.failure();
  options.worker.parallel = *parallel;
  const auto attempts =
      count_of(values, "attempts", command.needs_pools ? kDrainAttempts : options.worker.attempts, kMostAttempts);
  if (!attempts) return attempts.failure();
  options.worker.attempts = *attempts;
  options.once = flag_of(values, "once");
  options.remove_request = text_of(values, "remove");
  options.retry_request = text_of(values, "retry");
  if (!options.remove_request.empty() && !options.retry_request.empty()) {
    return usage_error("'--remove' and '--retry' are both given", "Give one of them.");
  }
  if (command.needs_pools) {
    const auto drain = drain_of(command, values);
    if (!drain) return drain.failure();
    options.drain = *drain;
  }
  if (!command.needs_request) return options;
  const auto request = request_of(command, values);
  if (!request) return request.failure();
  options.request = *request;
  return options;
}

void add_json(po::options_description& group) {
  group.add_options()("json", po::bool_switch(), "the last line on stdout is the result as one JSON object");
}

}  // namespace

po::options_description request_options() {
  po::options_description group("Options", kHelpColumns);
  auto add = group.add_options();
  add("domain", text("NAME|UUID"), "the running virtual machine");
  add("disk", text("NAME"), "its disk as libvirt calls it, for example vda");
  add("to", text("POOL[/NAMESPACE]/IMAGE"), "the image that the disk moves to");
  add("from", text("POOL[/NAMESPACE]/IMAGE"), "refuse if the disk is not on this image");
  add("create", po::bool_switch(), "create the target, like the source, if it does not exist");
  add("engine", text("auto|mirror|handover"), "how to move it (default: auto)");
  add("hydrate", text("auto|offload|flatten"),
      "how a handover's target gets its data: the OSDs copy it, or the guest's QEMU does (default: auto)");
  add("max-pause", text("SECONDS"),
      "when a handover has paused the guest for so long it runs again and the swap is undone (default: 3)");
  add("bandwidth", text("BYTES_PER_S[K|M|G]"), "copy at most so fast; 0 is no limit (default: 0)");
  add("source", text("keep|trash"), "what becomes of the source's image after the swap (default: keep)");
  add("dry-run", po::bool_switch(), "only print the checks and the plan, change nothing");
  add("progress", text("auto|bar|json|none"), "how progress is shown (default: auto)");
  add_json(group);
  return group;
}

po::options_description status_options() {
  po::options_description group("Options", kHelpColumns);
  group.add_options()("watch", po::bool_switch(), "show it every second, until nothing runs any more");
  add_json(group);
  return group;
}

po::options_description set_options() {
  po::options_description group("Options", kHelpColumns);
  group.add_options()("bandwidth", text("BYTES_PER_S[K|M|G]"), "copy at most so fast; 0 is no limit");
  add_json(group);
  return group;
}

po::options_description worker_options() {
  po::options_description group("Options", kHelpColumns);
  auto add = group.add_options();
  add("once", po::bool_switch(), "do what can be done now, and end");
  add("parallel", text("N"), "make at most so many swaps at once, from 1 to 64 (default: 2)");
  add("bandwidth", text("BYTES_PER_S[K|M|G]"), "share so much out to them; 0 is no limit (default: 0)");
  add("attempts", text("N"), "try a request at most so often, from 1 to 1000 (default: 10)");
  return group;
}

po::options_description drain_options() {
  po::options_description group("Options", kHelpColumns);
  auto add = group.add_options();
  add("from", text("POOL"), "the pool that is to be emptied");
  add("to", text("POOL[/NAMESPACE]"), "the pool that the disks move to; images keep their names");
  add("match", text("PATTERN"), "only disks on images whose name matches, for example 'web-*'");
  add("parallel", text("N"), "make at most so many swaps at once, from 1 to 64 (default: 2)");
  add("bandwidth", text("BYTES_PER_S[K|M|G]"), "share so much out to them; 0 is no limit (default: 0)");
  add("attempts", text("N"), "try a disk at most so often, from 1 to 1000 (default: 3)");
  add("engine", text("auto|mirror|handover"), "how to move them (default: auto)");
  add("source", text("keep|trash"), "what becomes of the sources' images after the swap (default: keep)");
  add("openstack", po::bool_switch(), "the disks of domains that OpenStack manages too; it will not know");
  add("dry-run", po::bool_switch(), "only say what would move and what not, change nothing");
  add_json(group);
  return group;
}

void add_policy_dir(po::options_description& group) {
  group.add_options()("policy-dir", text("DIR"),
                      "folder of the policy (default: $POOLSHIFT_POLICY_DIR, else /etc/poolshift/policy.d)");
}

po::options_description policy_options() {
  po::options_description group("Options", kHelpColumns);
  add_policy_dir(group);
  add_json(group);
  return group;
}

po::options_description metrics_options() {
  po::options_description group("Options", kHelpColumns);
  auto add = group.add_options();
  add("write", po::bool_switch(), "put them into the file, all at once, instead of printing them");
  add("metrics-file", text("FILE"),
      "the file (default: /var/lib/prometheus/node-exporter/poolshift.prom, where there is such a folder)");
  return group;
}

po::options_description queue_options() {
  po::options_description group("Options", kHelpColumns);
  auto add = group.add_options();
  add("remove", text("REQUEST"), "take this one out, which waits");
  add("retry", text("REQUEST"), "ask again for this one, which failed");
  add_json(group);
  return group;
}

po::options_description json_options() {
  po::options_description group("Options", kHelpColumns);
  add_json(group);
  return group;
}

po::options_description doctor_options() {
  po::options_description group("Options", kHelpColumns);
  group.add_options()(
      "nova-conf", text("FILE"),
      "nova-compute's configuration, to ask Nova and Cinder (default: /etc/nova/nova.conf if it exists)");
  add_policy_dir(group);
  add_json(group);
  return group;
}

std::string help_of(const Command& command) {
  std::ostringstream options;
  options << all_options(command);
  return fmt::format("Usage: poolshift {}{}{}\n\n{}\n\n{}\nSee poolshift(8).", command.name,
                     command.synopsis.empty() ? "" : " ", command.synopsis, command.details, options.str());
}

Outcome<Options> parse_options(const Command& command, const std::vector<std::string>& arguments) {
  if (const auto utf8 = check_arguments_utf8(arguments); !utf8) return utf8.failure();
  auto values = parse_words(command, arguments, all_options(command));
  if (!values) return values.failure();
  return options_of(command, std::move(*values));
}

Document host_document(const HostOptions& options) {
  Document document = {{"schema", 1},
                       {"connect", options.connect},
                       {"state_dir", options.state_dir},
                       {"ceph_conf", options.ceph_conf},
                       {"log_file", options.log_file.empty() && options.verbose ? "-" : options.log_file},
                       {"log_level", options.verbose ? "debug" : "info"},
                       {"log_journald", true},
                       {"owns_process", true}};
  if (!options.overlay_dir.empty()) document["overlay_dir"] = options.overlay_dir;
  if (!options.guardian.empty()) document["guardian"] = options.guardian;
  if (options.patience_s) document["patience_s"] = *options.patience_s;
  return document;
}

Document request_document(const Options& options) {
  const auto& request = options.request;
  Document document = {{"schema", 1},
                       {"domain", request.domain},
                       {"disk", request.disk},
                       {"target", request.target},
                       {"create", request.create},
                       {"engine", request.engine},
                       {"hydrate", request.hydrate},
                       {"bandwidth_bytes_per_s", options.bandwidth_bytes_per_s.value_or(0)},
                       {"source_after", request.source_after}};
  if (request.max_pause_ms) document["max_pause_ms"] = *request.max_pause_ms;
  if (!request.source.empty()) document["source"] = request.source;
  return document;
}

}  // namespace poolshift::cli
