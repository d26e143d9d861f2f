// Whatever libvirt, an operator or a crash puts before the qemu hook: damaged XML, policies, journals and requests. It
// must answer, not throw, refuse only what a whole journal says, and print only XML that is a domain's.
//
// POOLSHIFT_FUZZ_ITERATIONS (20000) inputs of each kind, from POOLSHIFT_FUZZ_SEED (1). What fails is written to
// fuzz-failed.KIND in the current folder, and the seed that gives it again is printed.
#include <fmt/core.h>

#include <chrono>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "fakes/fake_world.h"
#include "hook.h"
#include "journal/journal.h"
#include "policy.h"
#include "spool/spool_request.h"

namespace {

using namespace poolshift;
using namespace poolshift::hook;

constexpr std::int64_t kSlowMs = 2'000;

std::string content_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

std::vector<std::string> files_in(const std::string& folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(POOLSHIFT_TEST_DATA) + folder)) {
    if (entry.is_regular_file()) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());  // the order of a folder is not the same everywhere
  std::vector<std::string> contents;
  for (const auto& path : paths) contents.push_back(content_of(path));
  return contents;
}

class Mutator {
 public:
  Mutator(std::uint64_t seed, std::vector<std::string> words) : random_(seed), words_(std::move(words)) {}

  std::size_t below(std::size_t limit) { return limit == 0 ? 0 : random_() % limit; }

  std::string mutate(const std::vector<std::string>& corpus) {
    auto text = corpus[below(corpus.size())];
    for (auto rounds = 1 + below(8); rounds > 0; --rounds) change(text, corpus);
    return text;
  }

 private:
  void change(std::string& text, const std::vector<std::string>& corpus) {
    const auto at = below(text.size() + 1);
    const auto length = below(below(10) == 0 ? text.size() - at + 1 : 16);
    switch (below(9)) {
      case 0: text.insert(at, 1, static_cast<char>(below(256))); break;
      case 1: text.erase(at, length); break;
      case 2:
        if (at < text.size()) text[at] = static_cast<char>(static_cast<unsigned>(text[at]) ^ (1U << below(8)));
        break;
      case 3: text.insert(at, words_[below(words_.size())]); break;
      case 4: text.insert(at, text.substr(below(text.size() + 1), length)); break;
      case 5: text.resize(at); break;
      case 6: text.replace(at, std::min(length, text.size() - at), words_[below(words_.size())]); break;
      case 7: {  // goes on with another one of the corpus
        const auto& other = corpus[below(corpus.size())];
        text = text.substr(0, at) + other.substr(below(other.size() + 1));
        break;
      }
      case 8: {  // deep and wide
        const auto& word = words_[below(words_.size())];
        std::string many;
        for (auto times = below(300); times > 0; --times) many += word;
        text.insert(at, many);
        break;
      }
    }
  }

  std::mt19937_64 random_;
  std::vector<std::string> words_;
};

const std::vector<std::string> kXmlWords = {"<",
                                            ">",
                                            "/>",
                                            "</",
                                            "<a>",
                                            "</a>",
                                            "<!--",
                                            "-->",
                                            "<![CDATA[",
                                            "]]>",
                                            "<!DOCTYPE a [<!ENTITY b 'c'>]>",
                                            "&b;",
                                            "&#0;",
                                            "&#x10ffff;",
                                            "<disk type='network'>",
                                            "</disk>",
                                            "<source protocol='rbd' name='hdd/web'/>",
                                            "<target dev='vda'/>",
                                            "<metadata>",
                                            "</metadata>",
                                            "<uuid>",
                                            "</uuid>",
                                            "<domain>",
                                            "xmlns:ps='https://poolshift.dev/xmlns/1'",
                                            "<ps:swap xmlns:ps='https://poolshift.dev/xmlns/1' disk='vda' pool='ssd'/>",
                                            " bandwidth_bytes_per_s='99999999999999999999'",
                                            " window='25:00-00:00'",
                                            "name='hdd//web'",
                                            "name='a/b/c/d'",
                                            "\xff\xfe",
                                            std::string(1, '\0'),
                                            "<?xml version='1.0'?>",
                                            "<mirror job='copy'>",
                                            "<snapshot name='s'/>",
                                            ":",
                                            "::",
                                            "ps:"};
const std::vector<std::string> kJsonWords = {"{",
                                             "}",
                                             "[",
                                             "]",
                                             ":",
                                             ",",
                                             "\"",
                                             "\\u0000",
                                             "\\ud800",
                                             "null",
                                             "true",
                                             "-1",
                                             "1e999",
                                             "99999999999999999999",
                                             "\"pool\"",
                                             "\"swap\"",
                                             "\"match\"",
                                             "\"rules\"",
                                             "\"metadata\":{\"namespace\":\"x\"}",
                                             "\"image\":\"[\"",
                                             "\"domain\":\"**********\"",
                                             "\"schema\":1",
                                             "\"window\":\"22:00-06:00\"",
                                             "\xff",
                                             std::string(1, '\0'),
                                             "\n",
                                             "\"name\":\"one\"",
                                             "[[[[[[[[",
                                             "{\"a\":"};

const std::string kPolicy =
    R"({"schema":1,"journals_are_shared":true,"rules":[{"name":"one","match":{"pool":"hdd","image":"w*",
"domain":"*","metadata":{"namespace":"http://example.com/app","element":"tier","value":"gold"}},"swap":{"pool":"ssd","engine":"auto",
"bandwidth_bytes_per_s":1000},"when":"both","window":"22:00-06:00","at_most":2},
{"name":"two","match":{"pool":"volumes-hdd"},"swap":{"pool":"volumes-ssd","namespace":"n","source_after":"trash"},"openstack":true}]})";
const std::string kRequest =
    R"({"schema":1,"id":"0123456789ab","created_ms":1,"origin":"policy","policy":"one","domain":{"uuid":
"6f1d0c3a-2f0e-4b8e-9a53-0d8c3c2f7a11","name":"web"},"disk":"vda","source":{"pool":"hdd","namespace":"","image":"web"},
"swap":{"target":"ssd/web","create":true},"window":"22:00-06:00","at_most":2})";

struct Seeds {
  std::vector<std::string> xml;
  std::vector<std::string> journals = files_in("/hook/jobs");
  std::vector<std::string> policies = {kPolicy};
  std::vector<std::string> requests = {kRequest};

  Seeds() : xml(files_in("/domain_xml")) {
    const auto web = content_of(std::string(POOLSHIFT_TEST_DATA) + "/hook/web.xml");
    xml.push_back(web);
    for (const auto* metadata :
         {"<ps:swap xmlns:ps='https://poolshift.dev/xmlns/1' disk='vda' pool='ssd' when='both' window='01:00-02:00'/>",
          "<a:app xmlns:a='http://example.com/app'><a:tier>gold</a:tier></a:app>",
          "<nova:instance "
          "xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'><nova:name>web</nova:name></nova:instance>"}) {
      auto with = web;
      with.replace(with.find("METADATA"), 8, metadata);
      xml.push_back(with);
    }
  }
};

struct Failure {
  std::string why;
  std::string input;
};

void require(bool condition, const char* what, const std::string& input) {
  if (!condition) throw Failure{what, input};
}

void put(fakes::FakeWorld& world, const std::string& path, const std::string& text) {
  world.files[path] = {text, text, true};
}

Answer ask(fakes::FakeWorld& world, const char* operation, const std::string& xml) {
  const auto system = world.system();
  return answer(*system, {"/state", "/policy"}, operation, [&]() -> Result<std::string> { return xml; });
}

void check_requests(fakes::FakeWorld& world, const std::string& input) {
  for (const auto& [path, file] : world.files) {
    if (path.starts_with("/state/spool/queue/")) {
      require(parse_spool_request(file.content).ok(), "what it put into the spool is no request", input);
      require(path.find("..") == std::string::npos, "a file's name in the spool leads elsewhere", input);
    }
  }
}

constexpr const char* kOperations[] = {"prepare", "migrate", "started", "stopped"};

void try_xml(Mutator& mutator, const Seeds& seeds) {
  const auto xml = mutator.mutate(seeds.xml);
  fakes::FakeWorld bare;
  const auto* operation = kOperations[mutator.below(4)];
  require(!ask(bare, operation, xml).refused, "refused without a journal", xml);
  fakes::FakeWorld full;
  put(full, "/state/jobs/00000000000a.journal", seeds.journals[0]);
  put(full, "/policy/a.json", kPolicy);
  const auto given = ask(full, operation, xml);
  require(given.refused == !given.complaint.empty(), "a refusal has one sentence, and nothing else has one", xml);
  require(given.complaint.find('\n') == std::string::npos || xml.find('\n') != std::string::npos, "two lines", xml);
  if (!given.xml.empty()) require(parse_domain_xml(given.xml).ok(), "it prints what is not the XML of a domain", xml);
  check_requests(full, xml);
}

void try_policy(Mutator& mutator, const Seeds& seeds) {
  const auto policy = mutator.mutate(seeds.policies);
  fakes::FakeWorld world;
  put(world, "/policy/a.json", policy);
  put(world, "/policy/b.json", mutator.mutate(seeds.policies));
  const auto& xml = seeds.xml[mutator.below(seeds.xml.size())];
  for (const auto* operation : kOperations) require(!ask(world, operation, xml).refused, "refused by a policy", policy);
  check_requests(world, policy);
  const auto parsed = parse_policy(policy, "policy");
  if (!parsed)
    require(!parsed.error().message.empty() && !parsed.error().advice.empty(), "an error says nothing", policy);
}

void try_journal(Mutator& mutator, const Seeds& seeds) {
  auto journal = mutator.mutate(seeds.journals);
  // Half of them with a right checksum, so that it is the record's reader that meets what is wrong.
  if (mutator.below(2) == 0) {
    const auto last = seeds.journals[0].rfind("\n", seeds.journals[0].size() - 2) + 1;
    const auto record = replay_journal(seeds.journals[0].substr(last))->last_record;
    auto damaged = mutator.mutate({record});
    std::replace(damaged.begin(), damaged.end(), '\n', ' ');
    journal = frame_record(damaged);
  }
  fakes::FakeWorld world;
  put(world, "/state/jobs/00000000000a.journal", journal);
  const auto& xml = seeds.xml[mutator.below(seeds.xml.size())];
  for (const auto* operation : kOperations) {
    const auto given = ask(world, operation, xml);
    require(given.refused == !given.complaint.empty(), "a refusal has one sentence, and nothing else has one", journal);
  }
}

void try_request(Mutator& mutator, const Seeds& seeds) {
  const auto text = mutator.mutate(seeds.requests);
  const auto request = parse_spool_request(text);
  if (!request) {
    require(!request.error().message.empty() && !request.error().advice.empty(), "an error says nothing", text);
    return;
  }
  const auto again = parse_spool_request(to_json(*request).dump());
  require(again.ok() && disk_key(*again) == disk_key(*request), "what was read is not read again", text);
}

std::uint64_t number_from(const char* variable, std::uint64_t otherwise) {
  const char* value = std::getenv(variable);
  return value != nullptr && *value != '\0' ? std::strtoull(value, nullptr, 10) : otherwise;
}

int run() {
  using Clock = std::chrono::steady_clock;
  struct Kind {
    const char* name;
    void (*attempt)(Mutator&, const Seeds&);
    const std::vector<std::string>& words;
  };
  const Kind kinds[] = {{"xml", try_xml, kXmlWords},
                        {"policy", try_policy, kJsonWords},
                        {"journal", try_journal, kJsonWords},
                        {"request", try_request, kJsonWords}};
  const auto iterations = number_from("POOLSHIFT_FUZZ_ITERATIONS", 20'000);
  const auto first_seed = number_from("POOLSHIFT_FUZZ_SEED", 1);
  const Seeds seeds;
  for (const auto& kind : kinds) {
    for (auto seed = first_seed; seed < first_seed + iterations; ++seed) {
      Mutator mutator(seed, kind.words);
      const auto began = Clock::now();
      Failure failure;
      try {
        kind.attempt(mutator, seeds);
      } catch (const Failure& found) {
        failure = found;
      } catch (const std::exception& thrown) {
        failure = {fmt::format("it throws: {}", thrown.what()), ""};
      }
      const auto took_ms = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - began).count();
      if (failure.why.empty() && took_ms > kSlowMs) failure.why = fmt::format("it takes {} ms", took_ms);
      if (failure.why.empty()) continue;
      std::ofstream(fmt::format("fuzz-failed.{}", kind.name), std::ios::binary) << failure.input;
      fmt::print("{}: {}\nagain with POOLSHIFT_FUZZ_SEED={} POOLSHIFT_FUZZ_ITERATIONS=1\n", kind.name, failure.why,
                 seed);
      return 1;
    }
    fmt::print("{}: {} inputs\n", kind.name, iterations);
  }
  return 0;
}

}  // namespace

int main() { return run(); }
