// The library's JSON, read without trust: a newer library may have added keys or left some out, and neither
// may stop the command from saying what it knows.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace poolshift::cli {

using Document = nlohmann::ordered_json;  // keeps the order of keys, for people who read it

// Empty, or a null document, when the key is missing or of another type.
std::string text_at(const Document& document, const char* key);
std::optional<double> number_at(const Document& document, const char* key);
bool true_at(const Document& document, const char* key);
const Document& part_at(const Document& document, const char* key);

// "pool/image -> pool/image"; empty while the library does not know them both.
std::string images_of(const Document& job);

std::string to_line(const Document& document);

}  // namespace poolshift::cli
