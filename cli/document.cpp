#include "document.h"

#include "text.h"

namespace poolshift::cli {

const Document& part_at(const Document& document, const char* key) {
  static const Document kNothing;
  if (!document.is_object()) return kNothing;
  const auto found = document.find(key);
  return found == document.end() ? kNothing : *found;
}

std::string text_at(const Document& document, const char* key) {
  const auto& part = part_at(document, key);
  return part.is_string() ? part.get<std::string>() : "";
}

std::optional<double> number_at(const Document& document, const char* key) {
  const auto& part = part_at(document, key);
  if (!part.is_number()) return std::nullopt;
  return part.get<double>();
}

bool true_at(const Document& document, const char* key) {
  const auto& part = part_at(document, key);
  return part.is_boolean() && part.get<bool>();
}

std::string images_of(const Document& job) {
  const auto source = text_at(job, "source");
  const auto target = text_at(job, "target");
  const auto is_known = [](const std::string& name) { return name.size() > 1; };  // "/" has neither pool nor image
  if (!is_known(source) || !is_known(target)) return "";
  return printable(source) + " -> " + printable(target);
}

std::string to_line(const Document& document) {
  return document.dump(-1, ' ', false, Document::error_handler_t::replace);
}

}  // namespace poolshift::cli
