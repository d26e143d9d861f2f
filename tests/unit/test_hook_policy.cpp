#include <fmt/core.h>

#include <catch2/catch.hpp>

#include "fakes/fake_world.h"
#include "hook_fixture.h"
#include "policy.h"
#include "trigger.h"

using namespace poolshift;
using namespace poolshift::hook;
using nlohmann::json;

namespace {

json rule(const std::string& name = "one") {
  return {{"name", name}, {"match", {{"pool", "hdd"}}}, {"swap", {{"pool", "ssd"}}}};
}

json policy_of(const std::vector<json>& rules) { return {{"schema", 1}, {"rules", rules}}; }

Policy parsed(const json& policy) {
  auto result = parse_policy(policy.dump(), "policy 'p'");
  if (!result) FAIL(result.error().message);
  return *result;
}

// The error's message and advice.
std::string error_of_text(const std::string& text) {
  const auto result = parse_policy(text, "policy 'p'");
  if (result) return "none";
  CHECK(result.error().code == ErrorCode::invalid);
  CHECK_FALSE(result.error().advice.empty());
  CHECK(result.error().message.find("policy 'p'") != std::string::npos);
  return result.error().message;
}
std::string error_of(const json& policy) { return error_of_text(policy.dump()); }

template <class Change>
json changed(Change change) {
  auto one = rule();
  change(one);
  return policy_of({one});
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// "vda>ssd/web vdb>..." of all that is asked for.
std::string targets(const Asked& asked) {
  std::string text;
  for (const auto& request : asked.requests) {
    text += (text.empty() ? "" : " ") + request.disk + ">" + request.swap.value("target", "");
  }
  return text;
}

std::string targets(const json& policy, Event event = Event::started, const DomainDescription& domain = web()) {
  return targets(asked_for(event, domain, parsed(policy)));
}

std::string swap_xml(const std::string& attributes) {
  return "<ps:swap xmlns:ps='https://poolshift.dev/xmlns/1' " + attributes + "/>";
}

Asked by_metadata(const std::string& metadata, Event event = Event::started) {
  return asked_for(event, web(metadata), Policy{});
}

}  // namespace

TEST_CASE("policy: a rule with everything", "[hook]") {
  const auto policy = parsed(changed([](json& one) {
    one["match"] = {{"pool", "hdd"}, {"namespace", ""}, {"image", "w*"}, {"domain", "we?"}};
    one["swap"] = {{"pool", "ssd"},
                   {"namespace", "ns"},
                   {"engine", "handover"},
                   {"hydrate", "flatten"},
                   {"bandwidth_bytes_per_s", 1000},
                   {"max_pause_ms", 2000},
                   {"source_after", "trash"}};
    one["when"] = "both";
    one["window"] = "22:00-06:00";
    one["at_most"] = 3;
    one["openstack"] = true;
  }));
  const auto asked = asked_for(Event::stopped, web(), policy);
  REQUIRE(asked.requests.size() == 1);
  const auto& request = asked.requests[0];
  CHECK(request.origin == Origin::policy);
  CHECK(request.policy == "one");
  CHECK(request.domain_uuid == kWebUuid);
  CHECK(request.domain_name == "web");
  CHECK(request.disk == "vda");
  CHECK(request.source == ImageName{"hdd", "", "web"});
  CHECK(request.at_most == 3);
  REQUIRE(request.window);
  CHECK(request.window->from_minute == 22 * 60);
  CHECK(request.swap == json{{"target", "ssd/ns/web"},
                             {"create", true},
                             {"engine", "handover"},
                             {"hydrate", "flatten"},
                             {"bandwidth_bytes_per_s", 1000},
                             {"max_pause_ms", 2000},
                             {"source_after", "trash"}});
}

TEST_CASE("policy: which disks match", "[hook]") {
  // The CD-ROM and the file are no disks to move; the namespace stays.
  CHECK(targets(policy_of({rule()})) == "vda>ssd/web vdb>ssd/ns/data");
  CHECK(targets(policy_of({rule()}), Event::stopped).empty());
  CHECK(targets(changed([](json& one) { one["when"] = "stopped"; })).empty());
  CHECK(targets(changed([](json& one) { one["when"] = "stopped"; }), Event::stopped) == "vda>ssd/web vdb>ssd/ns/data");
  CHECK(targets(changed([](json& one) { one["match"]["pool"] = "hd"; })).empty());
  CHECK(targets(changed([](json& one) { one["match"]["pool"] = "*"; })).empty());  // not a pattern
  CHECK(targets(changed([](json& one) { one["match"]["image"] = "w?b"; })) == "vda>ssd/web");
  CHECK(targets(changed([](json& one) { one["match"]["image"] = "we"; })).empty());
  CHECK(targets(changed([](json& one) { one["match"]["namespace"] = "ns"; })) == "vdb>ssd/ns/data");
  CHECK(targets(changed([](json& one) { one["match"]["namespace"] = ""; })) == "vda>ssd/web");
  CHECK(targets(changed([](json& one) { one["match"]["domain"] = "db*"; })).empty());
  auto shared = web();
  shared.disks[0].shareable = true;
  CHECK(targets(policy_of({rule()}), Event::started, shared) == "vdb>ssd/ns/data");
}

TEST_CASE("policy: the first rule that matches counts", "[hook]") {
  auto first = rule("first");
  first["match"]["image"] = "data";
  first["swap"]["pool"] = "nvme";
  CHECK(targets(policy_of({first, rule("second")})) == "vda>ssd/web vdb>nvme/ns/data");
}

TEST_CASE("policy: a disk that is where it belongs is left there", "[hook]") {
  auto one = rule();
  one["match"]["namespace"] = "ns";
  one["swap"] = {{"pool", "hdd"}, {"namespace", "other"}};
  CHECK(targets(policy_of({one})) == "vdb>hdd/other/data");
  one["swap"]["namespace"] = "ns";
  CHECK(has(error_of(policy_of({one})), "'match' names too"));
  CHECK(has(error_of(changed([](json& each) { each["swap"]["pool"] = "hdd"; })), "'match' names too"));
}

TEST_CASE("policy: OpenStack's domains are touched only when it says so", "[hook]") {
  CHECK(targets(policy_of({rule()}), Event::started, web(kNovaMetadata)).empty());
  CHECK(targets(changed([](json& one) { one["openstack"] = false; }), Event::started, web(kNovaMetadata)).empty());
  CHECK(targets(changed([](json& one) { one["openstack"] = true; }), Event::started, web(kNovaMetadata)) ==
        "vda>ssd/web vdb>ssd/ns/data");
  // Whatever the prefix is called.
  CHECK(is_openstack(web("<x xmlns='http://openstack.org/xmlns/libvirt/nova/1.0'/>")));
  CHECK_FALSE(is_openstack(web("<nova:instance xmlns:nova='http://example.com/'/>")));
}

TEST_CASE("policy: metadata is matched by namespace, element, attribute and value", "[hook]") {
  const auto with = [](const json& match) {
    return changed([&](json& one) {
      one["match"]["image"] = "web";
      one["match"]["metadata"] = match;
    });
  };
  const auto tier = web("<a:app xmlns:a='http://example.com/app'><a:tier kind='fast'>gold</a:tier></a:app>");
  const auto matches = [&](json match) {
    match["namespace"] = match.value("namespace", "http://example.com/app");
    return !targets(with(match), Event::started, tier).empty();
  };
  CHECK(matches(json::object()));
  CHECK_FALSE(matches({{"namespace", "http://example.com/"}}));
  CHECK(matches({{"element", "tier"}}));
  CHECK_FALSE(matches({{"element", "level"}}));
  CHECK(matches({{"element", "tier"}, {"value", "go*"}}));
  CHECK_FALSE(matches({{"element", "tier"}, {"value", "silver"}}));
  CHECK(matches({{"attribute", "kind"}, {"value", "fast"}}));
  CHECK_FALSE(matches({{"attribute", "kind"}, {"value", "slow"}}));
  CHECK_FALSE(matches({{"attribute", "colour"}}));
  CHECK(targets(with({{"namespace", "http://example.com/app"}})).empty());  // a domain without any
}

TEST_CASE("policy: what is wrong is said", "[hook]") {
  CHECK(has(error_of_text(""), "is not JSON"));
  CHECK(has(error_of_text("[]"), "is a JSON array"));
  CHECK(has(error_of_text("{\"rules\":[]}"), "has no \"schema\": 1"));
  CHECK(has(error_of_text(R"({"schema":1,"rules":[],"rules":[]})"), "is there twice"));
  CHECK(has(error_of({{"schema", 2}, {"rules", json::array()}}), "has no \"schema\": 1"));
  CHECK(has(error_of({{"schema", 1}, {"rules", 1}}), "key 'rules'"));
  CHECK(has(error_of({{"schema", 1}, {"colour", 1}}), "unknown key 'colour'"));
  CHECK(has(error_of_text(std::string(kMaxPolicyBytes + 1, ' ')), "bytes"));
  CHECK(has(error_of(policy_of({rule(), rule()})), "rule 2 of the policy 'p' has the name 'one'"));
  CHECK(has(error_of(policy_of({json(1)})), "rule 1 of the policy 'p'"));
  CHECK(has(error_of(policy_of(std::vector<json>(257, rule()))), "key 'rules'"));
  for (const auto* key : {"name", "match", "swap"}) {
    const auto error = error_of(changed([&](json& one) { one.erase(key); }));
    CHECK(has(error, fmt::format("key '{}'", key)));
    CHECK(has(error, "rule 1"));
  }
  struct Case {
    const char* pointer;
    json value;
    const char* said;
  };
  const Case cases[] = {
      {"/name", "", "is empty"},
      {"/name", std::string(129, 'x'), "has 129 bytes"},
      {"/colour", "red", "unknown key 'colour'"},
      {"/when", "never", "key 'when'"},
      {"/window", "22-06", "is not a time window"},
      {"/window", "22:00-22:00", "is not a time window"},
      {"/window", "", "is not a time window"},
      {"/at_most", -1, "key 'at_most'"},
      {"/at_most", 1001, "key 'at_most'"},
      {"/openstack", "yes", "key 'openstack'"},
      {"/match/pool", 1, "key 'pool' of the match"},
      {"/match/pools", "x", "unknown key 'pools'"},
      {"/match/metadata", json::object(), "key 'namespace' of the metadata"},
      {"/match/metadata", {{"namespace", "x"}, {"colour", "x"}}, "unknown key 'colour'"},
      {"/swap", json::object(), "key 'pool' of the swap"},
      {"/swap/pool", "", "key 'swap'"},
      {"/swap/pool", "a/b/c", "key 'swap'"},
      {"/swap/pool", "ssd@x", "key 'swap'"},
      {"/swap/engine", "telepathy", "key 'engine'"},
      {"/swap/bandwidth_bytes_per_s", "fast", "key 'bandwidth_bytes_per_s'"},
      {"/swap/max_pause_ms", 1, "key 'max_pause_ms'"},
      {"/swap/source_after", "delete", "key 'source_after'"},
      {"/swap/colour", "red", "unknown key 'colour'"},
      {"/swap/target", "ssd/web", "has the key 'target'"},
      {"/swap/target_access", {{"ceph_conf", "/etc/passwd"}}, "has the key 'target_access'"},
      {"/swap/labels", {{"a", "b"}}, "has the key 'labels'"},
      {"/swap/source", "hdd/x", "has the key 'source'"},
  };
  for (const auto& each : cases) {
    INFO(each.pointer << " " << each.value.dump());
    CHECK(has(error_of(changed([&](json& one) { one[json::json_pointer(each.pointer)] = each.value; })), each.said));
  }
}

TEST_CASE("policy: a file that is wrong is left out, the others count", "[hook]") {
  fakes::FakeWorld world;
  const auto system = world.system();
  const auto put = [&](const std::string& name, const std::string& text) {
    world.files["/policy/" + name] = {text, text, true};
  };
  CHECK(load_policy(*system, "/policy").errors.empty());
  put("20.json", policy_of({rule("two")}).dump());
  put("10.json", policy_of({rule("one")}).dump());
  put("15.json", "{");
  put("30.json", policy_of({rule("three"), rule("one")}).dump());
  put("40.json", std::string(kMaxPolicyBytes + 1, ' '));
  put("README", "not a policy");
  put("50.json.dpkg-old", "{");
  const auto loaded = load_policy(*system, "/policy");
  REQUIRE(loaded.policy.rules.size() == 2);
  CHECK(loaded.policy.rules[0].name == "one");
  CHECK(loaded.policy.rules[1].name == "two");
  CHECK_FALSE(loaded.policy.journals_are_shared);
  REQUIRE(loaded.errors.size() == 3);
  CHECK(has(loaded.errors[0].message, "/policy/15.json"));
  CHECK(has(loaded.errors[1].message, "has the name 'one'"));
  put("60.json", R"({"schema":1,"journals_are_shared":true})");
  CHECK(load_policy(*system, "/policy").policy.journals_are_shared);
  for (int number = 0; number < 70; ++number) put(fmt::format("9{:02}.json", number), R"({"schema":1})");
  CHECK(has(load_policy(*system, "/policy").errors.front().message, "more than 64"));
}

TEST_CASE("metadata: a request with everything", "[hook]") {
  const auto asked = by_metadata(swap_xml(
      "disk='vdb' pool='ssd' namespace='' image='data2' create='no' engine='mirror' hydrate='auto' when='both' "
      "bandwidth_bytes_per_s='1000' max_pause_ms='2000' source_after='trash' window='01:00-02:00' openstack='yes'"));
  CHECK(asked.errors.empty());
  REQUIRE(asked.requests.size() == 1);
  const auto& request = asked.requests[0];
  CHECK(request.origin == Origin::metadata);
  CHECK(request.policy.empty());
  CHECK(request.disk == "vdb");
  CHECK(request.source == ImageName{"hdd", "ns", "data"});
  CHECK(request.window);
  CHECK(request.swap == json{{"target", "ssd/data2"},
                             {"create", false},
                             {"engine", "mirror"},
                             {"hydrate", "auto"},
                             {"bandwidth_bytes_per_s", 1000},
                             {"max_pause_ms", 2000},
                             {"source_after", "trash"}});
}

TEST_CASE("metadata: several requests, and when they are for", "[hook]") {
  const std::string two =
      "<p:swaps xmlns:p='https://poolshift.dev/xmlns/1'><p:swap disk='vda' pool='ssd'/>"
      "<p:swap disk='vdb' pool='ssd' when='stopped'/></p:swaps>";
  CHECK(targets(by_metadata(two)) == "vda>ssd/web");
  CHECK(targets(by_metadata(two, Event::stopped)) == "vdb>ssd/ns/data");
  // Where it belongs already.
  CHECK(targets(by_metadata(swap_xml("disk='vda' pool='hdd'"))).empty());
  CHECK(by_metadata(swap_xml("disk='vda' pool='hdd'")).errors.empty());
  CHECK(targets(by_metadata(swap_xml("disk='vda' pool='hdd' image='web2'"))) == "vda>hdd/web2");
  // Another namespace's <swap>, or none.
  CHECK(targets(by_metadata("<swap disk='vda' pool='ssd'/>")).empty());
  CHECK(targets(by_metadata("<ps:swap xmlns:ps='https://poolshift.dev/xmlns/2' disk='vda' pool='ssd'/>")).empty());
  CHECK(targets(by_metadata("<swap xmlns='https://poolshift.dev/xmlns/1' disk='vda' pool='ssd'/>")) == "vda>ssd/web");
}

TEST_CASE("metadata: it comes before the policy", "[hook]") {
  const auto domain = web(swap_xml("disk='vda' pool='nvme'"));
  CHECK(targets(policy_of({rule()}), Event::started, domain) == "vda>nvme/web vdb>ssd/ns/data");
  // Also when it cannot be understood, or is for another event.
  const auto broken = web(swap_xml("disk='vda' pool='nvme' colour='red'"));
  CHECK(targets(policy_of({rule()}), Event::started, broken) == "vdb>ssd/ns/data");
}

TEST_CASE("metadata: what is wrong is said", "[hook]") {
  const std::pair<const char*, const char*> cases[] = {
      {"disk='vda'", "no 'pool'"},
      {"pool='ssd'", "no 'disk'"},
      {"disk='vdx' pool='ssd'", "disk 'vdx' is not an RBD disk"},
      {"disk='vdc' pool='ssd'", "disk 'vdc' is not an RBD disk"},
      {"disk='vda' pool='ssd' colour='red'", "unknown attribute 'colour'"},
      {"disk='vda' pool='ssd' create='maybe'", "attribute 'create'"},
      {"disk='vda' pool='ssd' openstack='1'", "attribute 'openstack'"},
      {"disk='vda' pool='ssd' when='now'", "attribute 'when'"},
      {"disk='vda' pool='ssd' window='x'", "is not a time window"},
  };
  for (const auto& [attributes, said] : cases) {
    INFO(attributes);
    const auto asked = by_metadata(swap_xml(attributes));
    CHECK(asked.requests.empty());
    REQUIRE(asked.errors.size() == 1);
    CHECK(has(asked.errors[0].message, said));
    CHECK(has(asked.errors[0].message, "domain 'web'"));
  }
  const auto nova = asked_for(Event::started, web(kNovaMetadata + swap_xml("disk='vda' pool='ssd'")), Policy{});
  CHECK(nova.requests.empty());
  CHECK(has(nova.errors.at(0).message, "OpenStack"));
}
