#include "base/json_reader.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace poolshift {

using nlohmann::json;

std::string text_at(const json& object, const char* key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

JsonReader::JsonReader(std::string_view text, std::string what, std::size_t limit_bytes) : what_(std::move(what)) {
  if (text.size() > limit_bytes) {
    fail({ErrorCode::invalid, fmt::format("the {} has {} bytes", what_, text.size()),
          fmt::format("Give at most {} bytes.", limit_bytes)});
    return;
  }
  // A key that comes twice would silently lose one of its values.
  std::vector<std::set<std::string>> open_objects;
  std::string twice;
  const auto note_keys = [&](int, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::object_start) open_objects.emplace_back();
    if (event == json::parse_event_t::object_end) open_objects.pop_back();
    if (event == json::parse_event_t::key && !open_objects.back().insert(parsed.get<std::string>()).second) {
      twice = parsed.get<std::string>();
    }
    return true;
  };
  // Parsed with exceptions, because only they carry the place of the error.
  try {
    object_ = json::parse(text, note_keys);
  } catch (const json::exception& reason) {
    fail({ErrorCode::invalid, fmt::format("the {} is not JSON: {}", what_, reason.what()),
          "Give one JSON object in UTF-8."});
    return;
  }
  if (!twice.empty()) fail(twice, "is there twice", "Give it once.");
  check_object(object_);
  if (status_ && whole_number("schema", 1'000'000, 0) != 1) {
    fail({ErrorCode::invalid, fmt::format("the {} has no \"schema\": 1", what_), "Add \"schema\": 1 to it."});
  }
}

JsonReader::JsonReader(json object, std::string what) : what_(std::move(what)), object_(std::move(object)) {
  check_object(object_);
}

void JsonReader::check_object(const json& value) {
  if (!value.is_object()) {
    fail({ErrorCode::invalid, fmt::format("the {} is a JSON {}", what_, value.type_name()), "Give a JSON object."});
  }
}

void JsonReader::fail(const Error& error) {
  if (status_) status_ = error;
}

void JsonReader::fail(const std::string& key, const std::string& found, const std::string& advice) {
  fail({ErrorCode::invalid, fmt::format("key '{}' of the {} {}", key, what_, found), advice});
}

const json* JsonReader::find(const std::string& key) {
  known_.insert(key);
  if (!status_) return nullptr;
  const auto entry = object_.find(key);
  return entry == object_.end() ? nullptr : &*entry;
}

bool JsonReader::has(const std::string& key) { return find(key) != nullptr; }

void JsonReader::require(const std::string& key) {
  if (status_ && find(key) == nullptr) fail(key, "is missing", "Add it.");
}

static bool has_control_character(const std::string& text) {
  return std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

std::string JsonReader::text(const std::string& key, std::size_t limit_bytes, const std::string& fallback) {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_string()) {
    fail(key, fmt::format("is a {}", value->type_name()), "Give a string.");
    return fallback;
  }
  auto text = value->get<std::string>();
  if (text.size() > limit_bytes) {
    fail(key, fmt::format("has {} bytes", text.size()), fmt::format("Give at most {} bytes.", limit_bytes));
  } else if (has_control_character(text)) {
    fail(key, "holds a control character", "Give printable text.");
  }
  return text;
}

bool JsonReader::boolean(const std::string& key, bool fallback) {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) {
    fail(key, fmt::format("is a {}", value->type_name()), "Give true or false.");
    return fallback;
  }
  return value->get<bool>();
}

std::uint64_t JsonReader::whole_number(const std::string& key, std::uint64_t most, std::uint64_t fallback) {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_number_unsigned() || value->get<std::uint64_t>() > most) {
    fail(key, fmt::format("is {}", value->dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 40)),
         fmt::format("Give a whole number from 0 to {}.", most));
    return fallback;
  }
  return value->get<std::uint64_t>();
}

std::string JsonReader::one_of(const std::string& key, const std::vector<std::string>& choices,
                               const std::string& fallback) {
  auto found = text(key, 64, fallback);
  if (std::find(choices.begin(), choices.end(), found) == choices.end()) {
    fail(key, fmt::format("is '{}'", found), fmt::format("Give one of {}.", fmt::join(choices, ", ")));
    return fallback;
  }
  return found;
}

std::vector<std::string> JsonReader::texts(const std::string& key, std::size_t limit_count, std::size_t limit_bytes) {
  const json* value = find(key);
  if (value == nullptr) return {};
  if (!value->is_array() || value->size() > limit_count) {
    fail(key, "is not a list of acceptable length", fmt::format("Give a list of at most {} strings.", limit_count));
    return {};
  }
  std::vector<std::string> found;
  for (const auto& entry : *value) {
    if (!entry.is_string() || entry.get_ref<const std::string&>().size() > limit_bytes ||
        has_control_character(entry.get_ref<const std::string&>())) {
      fail(key, "holds something that is not acceptable text",
           fmt::format("Give strings of at most {} bytes.", limit_bytes));
      return {};
    }
    found.push_back(entry);
  }
  return found;
}

std::map<std::string, std::string> JsonReader::labels(const std::string& key, std::size_t limit_count,
                                                      std::size_t limit_bytes) {
  constexpr std::size_t kMostKeyBytes = 32;
  const auto entries = object(key);
  if (entries.size() > limit_count) {
    fail(key, fmt::format("has {} entries", entries.size()), fmt::format("Give at most {}.", limit_count));
    return {};
  }
  JsonReader reader(entries, key);
  std::map<std::string, std::string> found;
  for (const auto& entry : entries.items()) {
    const auto& name = entry.key();
    if (name.empty() || name.size() > kMostKeyBytes ||
        name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") != std::string::npos) {
      fail(key, "has an entry whose name is not acceptable",
           fmt::format("Use at most {} of a-z, 0-9 and _.", kMostKeyBytes));
      return {};
    }
    found[name] = reader.text(name, limit_bytes);
  }
  if (auto status = reader.finish(); !status) fail(status.error());
  return found;
}

json JsonReader::object(const std::string& key) {
  const json* value = find(key);
  if (value == nullptr) return json::object();
  if (!value->is_object()) {
    fail(key, fmt::format("is a {}", value->type_name()), "Give an object.");
    return json::object();
  }
  return *value;
}

json JsonReader::array(const std::string& key, std::size_t limit_count) {
  const json* value = find(key);
  if (value == nullptr) return json::array();
  if (!value->is_array() || value->size() > limit_count) {
    fail(key, "is not a list of acceptable length", fmt::format("Give a list of at most {} entries.", limit_count));
    return json::array();
  }
  return *value;
}

Status JsonReader::finish() {
  if (!status_) return status_;
  for (const auto& [key, value] : object_.items()) {
    if (!known_.contains(key)) {
      return Error{ErrorCode::invalid, fmt::format("the {} has the unknown key '{}'", what_, key),
                   fmt::format("Known keys: {}.", fmt::join(known_, ", "))};
    }
  }
  return {};
}

}  // namespace poolshift
