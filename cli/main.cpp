// poolshift(8): finds the subcommand, reads its options, runs it. The exit codes are enum poolshift_result.
#include <fmt/core.h>
#include <malloc.h>

#include <algorithm>
#include <array>
#include <exception>
#include <string>
#include <vector>

#include "commands/commands.h"
#include "library.h"
#include "options.h"
#include "output.h"
#include "text.h"

namespace poolshift::cli {

namespace {

constexpr const char* kRequestSynopsis = "--domain NAME|UUID --disk NAME --to POOL[/NAMESPACE]/IMAGE [OPTION]...";

constexpr std::array kCommands = {
    Command{"swap", kRequestSynopsis, "move a running guest's disk to another pool",
            "Moves the disk of a running virtual machine to another image of the same Ceph cluster.\n"
            "Ctrl-C cancels and undoes; a second one leaves the job to 'poolshift recover'.",
            request_options, JobArgument::none, true, run_swap},
    Command{"check", kRequestSynopsis, "say whether a swap would be refused, and why",
            "Validates a swap and changes nothing. Takes the same options as 'swap'.", request_options,
            JobArgument::none, true, run_check},
    Command{"status", "[JOB] [OPTION]...", "show all jobs, or one",
            "Shows the jobs of the state folder, or one of them in detail.", status_options, JobArgument::optional,
            false, run_status},
    Command{"cancel", "JOB [OPTION]...", "ask a running job to stop and undo",
            "Asks a running job to stop and undo, and does not wait for it.", json_options, JobArgument::required,
            false, run_cancel},
    Command{"set", "JOB --bandwidth BYTES_PER_S[K|M|G] [OPTION]...", "change a running job",
            "Changes how fast a running job copies.", set_options, JobArgument::required, false, run_set},
    Command{"recover", "[JOB] [OPTION]...", "go on with jobs that nobody runs any more",
            "Carries on, undoes or holds every open job that nobody runs, or the one that is named.", json_options,
            JobArgument::optional, false, run_recover},
    Command{
        "rescue", kRequestSynopsis, "bring a guest home whose image is in the trash",
        "For a running guest whose image was put into the trash under it, while the volume's owner names a copy that\n"
        "is out of date (Cinder's driver-assisted retype does that). Restores the image, sets the copy aside, and\n"
        "swaps the guest to the name of the copy; the source goes back to the trash. Takes the options of 'swap'.",
        request_options, JobArgument::none, true, run_rescue},
    Command{
        "worker", "[OPTION]...", "make the swaps that wait in the spool",
        "Makes the swaps that requests in the spool ask for, until nothing is left there. Goes on with what a worker\n"
        "before it had begun. SIGTERM or Ctrl-C ends it; swaps that run are left to the next one.",
        worker_options, JobArgument::none, false, run_worker},
    Command{
        "drain", "--from POOL --to POOL[/NAMESPACE] [OPTION]...", "move every disk of this host out of a pool",
        "Moves the disks of this host's domains that are in one pool to another one, and ends with what is left and\n"
        "why. Ctrl-C starts no more and finishes those that run; the same command goes on.",
        drain_options, JobArgument::none, false, run_drain, true},
    Command{
        "policy", "check [FILE]... [OPTION]...", "say what is wrong with the policy",
        "Looks at the rules by which disks move by themselves, those in place or those in FILEs, and changes nothing.",
        policy_options, JobArgument::words, false, run_policy},
    Command{"queue", "[OPTION]...", "show what waits, runs, was done and failed",
            "Shows the requests in the spool, and those of late that are done or failed.", queue_options,
            JobArgument::none, false, run_queue},
    Command{
        "metrics", "[OPTION]...", "print metrics for Prometheus",
        "Prints what a monitoring system is told of this host's swaps, as Prometheus' text, or puts it into a file.",
        metrics_options, JobArgument::none, false, run_metrics},
    Command{"doctor", "[OPTION]...", "look at this node: what is wrong, and what to do about it",
            "Looks at this node and changes nothing. Failures come first, a summary last.", doctor_options,
            JobArgument::none, false, run_doctor},
};

std::string general_help() {
  std::string text =
      "Usage: poolshift COMMAND [OPTION]...\n\n"
      "Moves the disk of a running virtual machine from one Ceph pool to another of the same cluster.\n\n";
  for (const auto& command : kCommands) text += fmt::format("  {:<10}{}\n", command.name, command.summary);
  return text +
         "\n  --version  print the version\n"
         "  --help     print this help; 'poolshift COMMAND --help' has the options\n\n"
         "Exit codes: 0 done; 1 internal error; 2 usage; 3 refused, nothing changed; 4 failed and undone;\n"
         "5 held, an operator is needed; 6 cancelled; 8 warnings of doctor. See poolshift(8).";
}

int unknown_command(const std::string& word, bool json) {
  std::vector<std::string> names;
  for (const auto& command : kCommands) names.emplace_back(command.name);
  const auto near = nearest(word, names);
  const bool is_option = word.starts_with('-');
  auto advice = std::string("See 'poolshift --help'.");
  if (!near.empty()) advice = fmt::format("Did you mean '{}'? {}", near, advice);
  if (is_option) advice = "The command comes first. " + advice;
  return report_failure("poolshift",
                        usage_error(fmt::format("there is no {} '{}'", is_option ? "option" : "command", word), advice),
                        json);
}

int print_version() {
  const auto version = library_version();
  if (!version) return report_failure("poolshift", version.failure(), false);
  const auto abi = poolshift_abi_version();
  write_line(kStdout, fmt::format("poolshift {} (libpoolshift {}, ABI {}.{})", POOLSHIFT_CLI_VERSION, *version,
                                  abi / 1000, abi % 1000));
  return POOLSHIFT_OK;
}

int run_command(const Command& command, const std::vector<std::string>& arguments, bool json) {
  const auto name = fmt::format("poolshift {}", command.name);
  const auto options = parse_options(command, arguments);
  if (!options) return report_failure(name, options.failure(), json);
  if (options->help) {
    write_line(kStdout, help_of(command));
    return POOLSHIFT_OK;
  }
  if (const auto version = library_version(); !version) return report_failure(name, version.failure(), json);
  return command.run(*options);
}

int dispatch(const std::vector<std::string>& words) {
  // Known before the options are read, so that a usage error has its object too.
  const bool json = std::find(words.begin(), words.end(), "--json") != words.end();
  if (words.empty()) {
    write_line(kStderr, general_help());
    return POOLSHIFT_USAGE;
  }
  const auto& word = words.front();
  if (!is_utf8(word))
    return report_failure("poolshift", usage_error("the command's name is not UTF-8", "Give all text as UTF-8."), json);
  if (word == "--help" || word == "-h" || word == "help") {
    write_line(kStdout, general_help());
    return POOLSHIFT_OK;
  }
  if (word == "--version") return print_version();
  for (const auto& command : kCommands) {
    if (command.name == word) return run_command(command, {words.begin() + 1, words.end()}, json);
  }
  return unknown_command(word, json);
}

// librbd hands objects of some MiB from thread to thread; in the heaps of glibc they would stay when they are freed.
void keep_memory_low() {
  constexpr int kObjectsAreMappedBytes = 256 * 1024;
  mallopt(M_MMAP_THRESHOLD, kObjectsAreMappedBytes);
  mallopt(M_ARENA_MAX, 2);
}

}  // namespace

}  // namespace poolshift::cli

int main(int argc, char** argv) {
  using namespace poolshift::cli;
  open_standard_fds();
  keep_memory_low();
  try {
    return dispatch({argv + std::min(argc, 1), argv + argc});
  } catch (const std::exception& error) {
    return report_failure("poolshift",
                          {POOLSHIFT_INTERNAL, "internal", fmt::format("unexpected: {}", error.what()), "Report it."},
                          false);
  }
}
