// How long poolshift-qemu-hook takes, the whole process, against /bin/true in the same run: the calls take turns, so
// that whatever else the machine does falls on all of them. Writes hook.json and hook.md.
//
//   hook-time HOOK DATA-FOLDER RESULTS-FOLDER [ROUNDS]
#include <fcntl.h>
#include <fmt/core.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "journal/journal.h"

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct Case {
  std::string name;
  std::vector<std::string> command;
  int expected_exit_code = 0;
  std::string state_folder;
  std::string policy_folder;
  std::vector<double> samples_ms = {};
};

std::string content_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

void write_file(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

[[noreturn]] void fail(const std::string& why) {
  fmt::print(stderr, "hook-time: {}\n", why);
  std::exit(1);
}

double run_once(const Case& each, int xml_fd) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, xml_fd, STDIN_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  std::vector<std::string> variables = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                                        "POOLSHIFT_STATE_DIR=" + each.state_folder,
                                        "POOLSHIFT_POLICY_DIR=" + each.policy_folder};
  std::vector<char*> arguments;
  std::vector<char*> environment;
  for (const auto& word : each.command) arguments.push_back(const_cast<char*>(word.c_str()));
  for (const auto& word : variables) environment.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  environment.push_back(nullptr);
  ::lseek(xml_fd, 0, SEEK_SET);
  const auto began = std::chrono::steady_clock::now();
  pid_t pid = -1;
  if (::posix_spawn(&pid, arguments[0], &actions, nullptr, arguments.data(), environment.data()) != 0) {
    fail("cannot start " + each.command[0]);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  const auto took = std::chrono::steady_clock::now() - began;
  posix_spawn_file_actions_destroy(&actions);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != each.expected_exit_code) fail(each.name + ": another exit code");
  return std::chrono::duration<double, std::milli>(took).count();
}

double percentile(std::vector<double> samples, double part) {
  std::sort(samples.begin(), samples.end());
  return samples[std::min(samples.size() - 1, static_cast<std::size_t>(part * static_cast<double>(samples.size())))];
}

// Ended jobs of other domains, as long as real ones.
void write_journals(const fs::path& folder, const std::string& journal, int count) {
  const auto lines = std::count(journal.begin(), journal.end(), '\n');
  auto record = json::parse(poolshift::replay_journal(journal)->last_record);
  for (int number = 1; number <= count; ++number) {
    const auto id = fmt::format("{:012x}", number);
    record["job"] = id;
    record["domain_uuid"] = fmt::format("00000000-0000-0000-0000-{}", id);
    record["domain_name"] = "other-" + id;
    record["source"]["image"] = record["target"]["image"] = "other-" + id;
    std::string text;
    for (auto line = lines; line > 0; --line) text += poolshift::frame_record(record.dump());
    write_file(folder / "jobs" / (id + ".journal"), text);
  }
}

json result_of(const Case& each) {
  return {{"case", each.name},
          {"median_ms", percentile(each.samples_ms, 0.5)},
          {"p95_ms", percentile(each.samples_ms, 0.95)},
          {"fastest_ms", percentile(each.samples_ms, 0)}};
}

std::string table_of(const json& results, std::size_t rounds) {
  const double base = results[0]["median_ms"];
  auto text = fmt::format(
      "# The qemu hook against /bin/true\n\nThe whole process, {} rounds in turns, in ms. Made by `bench/hook`; the "
      "target is a "
      "median under 5 ms for a\ndomain that the hook has nothing to do with.\n\n"
      "| case | median | p95 | more than /bin/true (median) |\n|---|---:|---:|---:|\n",
      rounds);
  for (const auto& row : results) {
    text +=
        fmt::format("| {} | {:.2f} | {:.2f} | {:.2f} |\n", row["case"].get<std::string>(),
                    row["median_ms"].get<double>(), row["p95_ms"].get<double>(), row["median_ms"].get<double>() - base);
  }
  return text;
}

int run(const std::string& hook, const fs::path& data, const fs::path& results_folder, std::size_t rounds) {
  char place[] = "/tmp/poolshift-hook-time.XXXXXX";
  if (::mkdtemp(place) == nullptr) fail("cannot make a folder in /tmp");
  const fs::path work = place;
  auto xml = content_of(data / "web.xml");
  if (xml.empty()) fail("no web.xml in " + data.string());
  write_file(work / "web.xml", xml.replace(xml.find("METADATA"), 8, ""));
  const auto journal = content_of(data / "jobs" / "00000000000a.journal");
  for (const int count : {10, 100, 1000}) write_journals(work / std::to_string(count), journal, count);
  write_file(work / "own" / "jobs" / "00000000000a.journal", journal);
  write_file(work / "policy" / "a.json",
             R"({"schema":1,"rules":[{"name":"r","match":{"pool":"elsewhere"},"swap":{"pool":"ssd"}}]})");

  const auto none = (work / "none").string();
  const auto hook_case = [&](const std::string& name, const std::string& operation, const std::string& state,
                             const std::string& policy, int exit_code = 0) {
    return Case{name, {hook, "web", operation, "begin", "-"}, exit_code, state, policy};
  };
  std::vector<Case> cases = {
      {"/bin/true", {"/bin/true"}, 0, none, none},
      hook_case("reconnect", "reconnect", none, none),
      hook_case("prepare, no job ever", "prepare", none, none),
      hook_case("started, no policy", "started", none, none),
      hook_case("started, a policy for others", "started", none, work / "policy"),
      hook_case("prepare, 10 ended jobs of others", "prepare", work / "10", none),
      hook_case("prepare, 100 ended jobs of others", "prepare", work / "100", none),
      hook_case("prepare, 1000 ended jobs of others", "prepare", work / "1000", none),
      hook_case("prepare, refused", "prepare", work / "own", none, 1),
  };
  const int xml_fd = ::open((work / "web.xml").c_str(), O_RDONLY | O_CLOEXEC);
  for (auto& each : cases) run_once(each, xml_fd);  // a round to fill the caches
  for (std::size_t round = 0; round < rounds; ++round) {
    for (auto& each : cases) each.samples_ms.push_back(run_once(each, xml_fd));
  }
  ::close(xml_fd);
  json results = json::array();
  for (const auto& each : cases) results.push_back(result_of(each));
  fs::create_directories(results_folder);
  const auto table = table_of(results, rounds);
  write_file(results_folder / "hook.json",
             json{{"schema", 1}, {"rounds", rounds}, {"results", results}}.dump(2) + "\n");
  write_file(results_folder / "hook.md", table);
  fmt::print("{}", table);
  fs::remove_all(work);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) fail("usage: hook-time HOOK DATA-FOLDER RESULTS-FOLDER [ROUNDS]");
  return run(argv[1], argv[2], argv[3], argc == 5 ? std::stoul(argv[4]) : 300);
}
