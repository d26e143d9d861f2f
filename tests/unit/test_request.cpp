// Bad input gets one clear sentence and nothing else.
#include <fmt/core.h>

#include <catch2/catch.hpp>

#include "engine/host.h"
#include "flow/request.h"

namespace poolshift {

namespace {

Error error_of(const std::string& text) {
  const auto request = parse_request(text);
  REQUIRE_FALSE(request);
  CHECK(request.error().code == ErrorCode::invalid);
  CHECK_FALSE(request.error().advice.empty());
  return request.error();
}

std::string with(const std::string& more) {
  return R"({"schema":1,"domain":"guest","disk":"vda","target":"ssd/disk")" + more + "}";
}

}  // namespace

TEST_CASE("a whole request") {
  const auto request = parse_request(
      with(R"(,"source":"hdd/ns/disk","create":true,"engine":"mirror","bandwidth_bytes_per_s":1048576,)"
           R"("source_after":"trash","target_access":{"mon_hosts":["[::1]:6789"],"user":"u","secret_uuid":"s"})"));
  REQUIRE(request);
  CHECK(request->domain == "guest");
  CHECK(request->target == ImageName{"ssd", "", "disk"});
  CHECK(request->source == ImageName{"hdd", "ns", "disk"});
  CHECK(request->create);
  CHECK(request->engine == Engine::mirror);
  CHECK(request->bandwidth_bytes_per_s == 1048576);
  CHECK(request->source_after == SourceAfter::trash);
  CHECK(request->target_access->mon_hosts == std::vector<std::string>{"[::1]:6789"});
}

TEST_CASE("labels of the caller") {
  CHECK(parse_request(with(""))->labels.empty());
  const auto request = parse_request(with(R"(,"labels":{"nova_instance":"1f","schema":"x"})"));
  REQUIRE(request);
  CHECK(request->labels == std::map<std::string, std::string>{{"nova_instance", "1f"}, {"schema", "x"}});
  CHECK(error_of(with(R"(,"labels":{"a":1})")).message == "key 'a' of the labels is a number");
  CHECK(error_of(with(R"(,"labels":["a"])")).message == "key 'labels' of the request is a array");
  for (const auto* name : {"", "Upper", "with space", "a_name_that_has_thirty_three_chars"}) {
    CHECK(error_of(with(fmt::format(R"(,"labels":{{"{}":"x"}})", name))).message ==
          "key 'labels' of the request has an entry whose name is not acceptable");
  }
  CHECK(error_of(with(R"(,"labels":{"a":")" + std::string(257, 'x') + "\"}")).message ==
        "key 'a' of the labels has 257 bytes");
  std::string many;
  for (int i = 0; i < 17; ++i) many += fmt::format(R"({}"k{}":"")", i == 0 ? "" : ",", i);
  CHECK(error_of(with(",\"labels\":{" + many + "}")).message == "key 'labels' of the request has 17 entries");
}

TEST_CASE("how a handover is to be done") {
  CHECK_FALSE(parse_request(with(""))->hydration);
  CHECK(parse_request(with(""))->max_pause_ms == 3'000);
  const auto request = parse_request(with(R"(,"engine":"handover","hydrate":"flatten","max_pause_ms":500)"));
  REQUIRE(request);
  CHECK(request->engine == Engine::handover);
  CHECK(request->hydration == Hydration::flatten);
  CHECK(request->max_pause_ms == 500);
  CHECK(parse_request(with(R"(,"hydrate":"offload")"))->hydration == Hydration::offload);
  CHECK(error_of(with(R"(,"hydrate":"drip")")).message == "key 'hydrate' of the request is 'drip'");
  CHECK(error_of(with(R"(,"max_pause_ms":499)")).message == "key 'max_pause_ms' of the request is 499");
  CHECK_FALSE(parse_request(with(R"(,"max_pause_ms":60001)")));
}

TEST_CASE("malformed requests") {
  CHECK(error_of("").message.find("the request is not JSON") == 0);
  CHECK(error_of("{").message.find("the request is not JSON") == 0);
  CHECK(error_of("[]").message == "the request is a JSON array");
  CHECK(error_of("{}").message == "the request has no \"schema\": 1");
  CHECK(error_of(R"({"schema":2})").message == "the request has no \"schema\": 1");
  CHECK(error_of(R"({"schema":1})").message == "key 'domain' of the request is missing");
  CHECK(error_of("{\"schema\":1,\"domain\":\"\xff\xfe\"}").message.find("not JSON") != std::string::npos);
  CHECK(error_of(std::string(kMaxRequestBytes + 1, ' ')).message == "the request has 1048577 bytes");
  CHECK(error_of(R"({"schema":1,"domain":"a","domain":"b"})").message == "key 'domain' of the request is there twice");
  CHECK(error_of(std::string(100'000, '[')).message.find("the request is not JSON") == 0);
}

TEST_CASE("requests with wrong keys and values") {
  CHECK(error_of(with(R"(,"sorce":"a/b")")).message == "the request has the unknown key 'sorce'");
  CHECK(error_of(with(R"(,"create":"yes")")).message == "key 'create' of the request is a string");
  CHECK(error_of(with(R"(,"engine":"warp")")).message == "key 'engine' of the request is 'warp'");
  CHECK(error_of(with(R"(,"bandwidth_bytes_per_s":-1)")).message == "key 'bandwidth_bytes_per_s' of the request is -1");
  CHECK(error_of(with(R"(,"bandwidth_bytes_per_s":1.5)")).message ==
        "key 'bandwidth_bytes_per_s' of the request is 1.5");
  CHECK(error_of(with(R"(,"source":7)")).message == "key 'source' of the request is a number");
  CHECK(error_of(with(R"(,"target_access":{"password":"x"})")).message ==
        "the target_access has the unknown key 'password'");
  const auto domain = [](const std::string& name) {
    return R"({"schema":1,"disk":"vda","target":"a/b","domain":")" + name + "\"}";
  };
  CHECK(error_of(domain("")).message == "key 'domain' of the request is empty");
  CHECK(error_of(domain(std::string(256, 'x'))).message == "key 'domain' of the request has 256 bytes");
  CHECK(error_of(domain("a\\u0000b")).message == "key 'domain' of the request holds a control character");
}

TEST_CASE("image names") {
  CHECK(to_string(*parse_image_name("pool/image")) == "pool/image");
  CHECK(to_string(*parse_image_name("pool/ns/image")) == "pool/ns/image");
  for (const auto* wrong : {"", "image", "/image", "pool/", "a/b/c/d", "pool//image", "pool/image@snap"}) {
    INFO(wrong);
    CHECK_FALSE(parse_image_name(wrong));
  }
}

TEST_CASE("host options") {
  CHECK(parse_host_options(nullptr)->state_dir == "/var/lib/poolshift");
  CHECK(parse_host_options(R"({"schema":1,"patience_s":5})")->patience_ms == 5'000);
  CHECK_FALSE(parse_host_options(R"({"schema":1,"state_dir":"relative"})"));
  CHECK_FALSE(parse_host_options(R"({"schema":1,"log_level":"loud"})"));
  CHECK_FALSE(parse_host_options(R"({"schema":1,"overlay_dir":"relative"})"));
  CHECK_FALSE(parse_host_options(R"({"schema":1,"guardian":"relative"})"));
  CHECK_FALSE(parse_host_options(R"({"schema":1,"colour":"red"})"));
}

}  // namespace poolshift
