#include "policy.h"

#include <fmt/core.h>
#include <fnmatch.h>

#include <algorithm>
#include <set>

#include "base/json_reader.h"
#include "flow/request.h"
#include "spool/spool_request.h"

namespace poolshift::hook {

using nlohmann::json;

namespace {

constexpr std::size_t kMaxRuleNameBytes = 128;
constexpr std::size_t kMostRules = 256;
constexpr std::size_t kMostFiles = 64;

bool matches(const std::string& pattern, const std::string& text) {
  return ::fnmatch(pattern.c_str(), text.c_str(), 0) == 0;
}

void finish_part(JsonReader& parent, JsonReader& part) {
  if (const auto status = part.finish(); !status) parent.fail(status.error());
}

void read_metadata(JsonReader& parent, Rule& rule) {
  JsonReader reader(parent.object("metadata"), "metadata");
  reader.require("namespace");
  MetadataMatch match;
  match.namespace_uri = reader.text("namespace", kMaxNameBytes);
  match.element = reader.text("element", kMaxNameBytes, match.element);
  match.attribute = reader.text("attribute", kMaxNameBytes);
  match.value = reader.text("value", kMaxNameBytes, match.value);
  rule.metadata = match;
  finish_part(parent, reader);
}

void read_match(JsonReader& parent, Rule& rule) {
  JsonReader reader(parent.object("match"), "match");
  reader.require("pool");
  rule.source_pool = reader.text("pool", kMaxNameBytes);
  if (reader.has("namespace")) rule.source_namespace = reader.text("namespace", kMaxNameBytes);
  rule.image = reader.text("image", kMaxNameBytes, rule.image);
  rule.domain = reader.text("domain", kMaxNameBytes, rule.domain);
  if (reader.has("metadata")) read_metadata(reader, rule);
  finish_part(parent, reader);
}

// Beside the target's place it has keys of a swap's request, and whoever checks those in each request checks them here.
void read_swap(JsonReader& parent, Rule& rule) {
  rule.swap = parent.object("swap");
  json place = json::object();
  for (const auto* key : {"pool", "namespace"}) {
    if (rule.swap.contains(key)) place[key] = rule.swap[key];
    rule.swap.erase(key);
  }
  JsonReader reader(place, "swap");
  reader.require("pool");
  rule.target_pool = reader.text("pool", kMaxNameBytes);
  if (reader.has("namespace")) rule.target_namespace = reader.text("namespace", kMaxNameBytes);
  finish_part(parent, reader);
  for (const auto* key : {"domain", "disk", "source", "target", "create", "target_access", "labels", "schema"}) {
    if (rule.swap.contains(key))
      parent.fail("swap", fmt::format("has the key '{}', which is not for a policy", key), "Leave it out.");
  }
  json sample = {{"schema", 1}, {"domain", "domain"}, {"disk", "vda"}};
  sample["target"] = to_string(target_of(rule, {"pool", "", "image"}));
  sample.update(rule.swap);
  const auto request = parse_request(sample.dump(-1, ' ', true, json::error_handler_t::replace));
  if (!request) parent.fail({ErrorCode::invalid, "key 'swap': " + request.error().message, request.error().advice});
}

bool has_place_to_go(const Rule& rule) {
  return rule.source_pool != rule.target_pool ||
         (rule.target_namespace && rule.source_namespace != rule.target_namespace);
}

Rule read_rule(JsonReader& reader) {
  for (const auto* key : {"name", "match", "swap"}) reader.require(key);
  Rule rule;
  rule.name = reader.text("name", kMaxRuleNameBytes);
  if (reader.has("name") && rule.name.empty()) reader.fail("name", "is empty", "Give a name that no other rule has.");
  if (reader.has("match")) read_match(reader, rule);
  rule.openstack = reader.boolean("openstack", false);
  const auto when = reader.one_of("when", {"started", "stopped", "both"}, "started");
  rule.when = parse_when(when).value_or(When{});
  if (reader.has("swap")) read_swap(reader, rule);
  rule.window = reader.text("window", 64);
  if (const auto window = parse_window(rule.window); reader.has("window") && !window) reader.fail(window.error());
  rule.at_most = static_cast<unsigned>(reader.whole_number("at_most", kMostAtOnce, 0));
  if (!has_place_to_go(rule)) {
    reader.fail("swap", fmt::format("names the pool '{}', which 'match' names too", rule.target_pool),
                "Name another pool, or another namespace in both.");
  }
  return rule;
}

// The rules whose names `names` has already are an error: limits count by name.
Result<std::vector<Rule>> read_rules(const json& list, const std::string& what, std::set<std::string>& names) {
  std::vector<Rule> rules;
  for (std::size_t number = 0; number < list.size(); ++number) {
    JsonReader reader(list[number], fmt::format("rule {} of the {}", number + 1, what));
    auto rule = read_rule(reader);
    if (const auto status = reader.finish(); !status) {
      auto error = status.error();
      // Errors about a part of the rule do not name it.
      if (error.message.find(what) == std::string::npos) {
        error.message = fmt::format("rule {} of the {}: {}", number + 1, what, error.message);
      }
      return error;
    }
    if (!names.insert(rule.name).second) {
      return Error{
          ErrorCode::invalid,
          fmt::format("rule {} of the {} has the name '{}', which another rule has", number + 1, what, rule.name),
          "Give each rule a name of its own."};
    }
    rules.push_back(std::move(rule));
  }
  return rules;
}

// `names`: of the rules of other files.
Result<Policy> parse(std::string_view text, const std::string& what, std::set<std::string> names) {
  JsonReader reader(text, what, kMaxPolicyBytes);
  Policy policy;
  policy.journals_are_shared = reader.boolean("journals_are_shared", false);
  const auto list = reader.array("rules", kMostRules);
  POOLSHIFT_TRY(reader.finish());
  auto rules = read_rules(list, what, names);
  if (!rules) return rules.error();
  policy.rules = std::move(*rules);
  return policy;
}

void take(LoadedPolicy& loaded, const std::string& path, const Result<std::string>& text) {
  std::set<std::string> names;
  for (const auto& rule : loaded.policy.rules) names.insert(rule.name);
  auto policy = text ? parse(*text, fmt::format("policy '{}'", path), std::move(names)) : Result<Policy>(text.error());
  if (!policy) {
    loaded.errors.push_back(policy.error());
    return;
  }
  loaded.policy.journals_are_shared = loaded.policy.journals_are_shared || policy->journals_are_shared;
  for (auto& rule : policy->rules) loaded.policy.rules.push_back(std::move(rule));
}

bool matches(const MetadataMatch& match, const MetadataElement& element) {
  if (element.namespace_uri != match.namespace_uri || !matches(match.element, element.name)) return false;
  if (match.attribute.empty()) return matches(match.value, element.text);
  const auto attribute = element.attributes.find(match.attribute);
  return attribute != element.attributes.end() && matches(match.value, attribute->second);
}

bool matches(const Rule& rule, Event event, const DomainDescription& domain, const Disk& disk) {
  // What others write to too, or nobody does, is not moved without being asked for by name.
  if (!rule.when.includes(event) || !disk.image || disk.shareable || disk.read_only) return false;
  if (!rule.openstack && is_openstack(domain)) return false;
  if (disk.image->pool != rule.source_pool || !matches(rule.image, disk.image->image)) return false;
  if (rule.source_namespace && disk.image->rbd_namespace != *rule.source_namespace) return false;
  if (!matches(rule.domain, domain.name) || target_of(rule, *disk.image) == *disk.image) return false;
  return !rule.metadata || std::any_of(domain.metadata.begin(), domain.metadata.end(),
                                       [&](const auto& element) { return matches(*rule.metadata, element); });
}

}  // namespace

std::optional<When> parse_when(std::string_view text) {
  if (text == "started") return When{true, false};
  if (text == "stopped") return When{false, true};
  if (text == "both") return When{true, true};
  return std::nullopt;
}

Result<Policy> parse_policy(std::string_view text, const std::string& what) { return parse(text, what, {}); }

LoadedPolicy load_policy(System& system, const std::string& folder) {
  LoadedPolicy loaded;
  const auto names = system.list_folder(folder);
  if (!names) {
    if (names.error().code != ErrorCode::not_found) loaded.errors.push_back(names.error());
    return loaded;
  }
  std::vector<std::string> paths;
  for (const auto& name : *names) {
    if (name.ends_with(".json")) paths.push_back(fmt::format("{}/{}", folder, name));
  }
  if (paths.size() > kMostFiles) {
    paths.resize(kMostFiles);
    loaded.errors.push_back({ErrorCode::invalid, fmt::format("'{}' has more than {} policy files", folder, kMostFiles),
                             "Put several rules into one file."});
  }
  for (const auto& path : paths) take(loaded, path, system.read_trusted_file(path, kMaxPolicyBytes));
  return loaded;
}

LoadedPolicy load_policy_files(System& system, const std::vector<std::string>& paths) {
  LoadedPolicy loaded;
  for (const auto& path : paths) take(loaded, path, system.read_file(path, kMaxPolicyBytes));
  return loaded;
}

const Rule* rule_for(const Policy& policy, Event event, const DomainDescription& domain, const Disk& disk) {
  const auto found = std::find_if(policy.rules.begin(), policy.rules.end(),
                                  [&](const auto& rule) { return matches(rule, event, domain, disk); });
  return found == policy.rules.end() ? nullptr : &*found;
}

ImageName target_of(const Rule& rule, const ImageName& source) {
  return {rule.target_pool, rule.target_namespace.value_or(source.rbd_namespace), source.image};
}

}  // namespace poolshift::hook
