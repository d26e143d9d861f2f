#include "text.h"

#include <algorithm>
#include <cstdint>
#include <numeric>

namespace poolshift::cli {

namespace {

struct Lead {
  std::size_t continuation_bytes;
  std::uint32_t bits;
  std::uint32_t least;  // a smaller code point would be an overlong form
};

bool parse_lead(unsigned char byte, Lead& lead) {
  if (byte < 0x80) {
    lead = {0, byte, 0};
  } else if ((byte & 0xE0) == 0xC0) {
    lead = {1, byte & 0x1Fu, 0x80};
  } else if ((byte & 0xF0) == 0xE0) {
    lead = {2, byte & 0x0Fu, 0x800};
  } else if ((byte & 0xF8) == 0xF0) {
    lead = {3, byte & 0x07u, 0x10000};
  } else {
    return false;
  }
  return true;
}

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row.back();
}

}  // namespace

bool is_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    Lead lead{};
    if (!parse_lead(static_cast<unsigned char>(text[at]), lead)) return false;
    if (text.size() - at <= lead.continuation_bytes) return false;
    std::uint32_t point = lead.bits;
    for (std::size_t i = 1; i <= lead.continuation_bytes; ++i) {
      if (!is_continuation(text[at + i])) return false;
      point = (point << 6) | (static_cast<unsigned char>(text[at + i]) & 0x3Fu);
    }
    if (point < lead.least || point > 0x10FFFF || (point >= 0xD800 && point <= 0xDFFF)) return false;
    at += lead.continuation_bytes + 1;
  }
  return true;
}

std::string printable(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const auto byte = static_cast<unsigned char>(text[at]);
    // U+0080..U+009F are control characters as well; in UTF-8 they are 0xC2 0x80..0x9F.
    const bool c1 = byte == 0xC2 && at + 1 < text.size() && static_cast<unsigned char>(text[at + 1]) < 0xA0;
    if (c1) ++at;
    out += c1 || byte < 0x20 || byte == 0x7F ? '?' : text[at];
  }
  return out;
}

std::size_t display_width(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return !is_continuation(c); }));
}

std::string clipped(std::string_view text, std::size_t columns) {
  if (display_width(text) <= columns) return std::string(text);
  if (columns == 0) return "";
  std::string out;
  std::size_t width = 0;
  for (char c : text) {
    if (!is_continuation(c) && ++width == columns) break;
    out += c;
  }
  return out + "~";
}

std::vector<std::string> wrapped(std::string_view text, std::size_t columns) {
  if (columns == 0) return {std::string(text)};
  std::vector<std::string> lines(1);
  for (std::size_t at = 0; at < text.size();) {
    const auto end = std::min(text.find(' ', at), text.size());
    const auto word = text.substr(at, end - at);
    const bool first = lines.back().empty();
    if (!first && display_width(lines.back()) + 1 + display_width(word) > columns) {
      lines.emplace_back(word);
    } else {
      lines.back() += (first ? "" : " ") + std::string(word);
    }
    at = end + 1;
  }
  return lines;
}

std::string nearest(std::string_view word, const std::vector<std::string>& choices) {
  const std::size_t tolerated = word.size() < 4 ? 1 : 2;
  std::string best;
  std::size_t best_distance = tolerated + 1;
  for (const auto& choice : choices) {
    const bool starts_so = word.size() >= 2 && choice.starts_with(word);
    const std::size_t distance = starts_so ? 1 : edit_distance(word, choice);
    if (distance < best_distance) {
      best = choice;
      best_distance = distance;
    }
  }
  return best;
}

std::string shell_quoted(const std::string& word) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("_-./:+=@%,").find(c) != std::string_view::npos;
  };
  if (!word.empty() && std::all_of(word.begin(), word.end(), plain)) return word;
  std::string out = "'";
  for (char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

}  // namespace poolshift::cli
