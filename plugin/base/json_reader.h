// Reads JSON from outside. JsonReader does so strictly: every key must be known and of the right type, and the first
// error is kept.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>

#include "base/result.h"

namespace poolshift {

// The text at `key`, for readers who make do with what is there; empty when it is missing or no text.
std::string text_at(const nlohmann::json& object, const char* key);

class JsonReader {
 public:
  // `what` names the text in errors: "request", "host options".
  JsonReader(std::string_view text, std::string what, std::size_t limit_bytes);
  JsonReader(nlohmann::json object, std::string what);

  bool has(const std::string& key);
  // Each returns `fallback` when the key is missing, or after an error.
  std::string text(const std::string& key, std::size_t limit_bytes, const std::string& fallback = "");
  bool boolean(const std::string& key, bool fallback);
  std::uint64_t whole_number(const std::string& key, std::uint64_t most, std::uint64_t fallback);
  std::string one_of(const std::string& key, const std::vector<std::string>& choices, const std::string& fallback);
  std::vector<std::string> texts(const std::string& key, std::size_t limit_count, std::size_t limit_bytes);
  nlohmann::json object(const std::string& key);
  nlohmann::json array(const std::string& key, std::size_t limit_count);
  // An object of short strings: keys of a-z, 0-9 and _, at most 32 characters.
  std::map<std::string, std::string> labels(const std::string& key, std::size_t limit_count, std::size_t limit_bytes);

  void require(const std::string& key);
  void fail(const std::string& key, const std::string& found, const std::string& advice);
  void fail(const Error& error);
  // After all keys were read: the first error, an unknown key included.
  Status finish();

 private:
  const nlohmann::json* find(const std::string& key);
  void check_object(const nlohmann::json& value);

  std::string what_;
  nlohmann::json object_;
  std::set<std::string> known_;
  Status status_;
};

}  // namespace poolshift
