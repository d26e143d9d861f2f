#include "sizes.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace poolshift::cli {

namespace {

constexpr std::uint64_t kMaxBytes = std::numeric_limits<std::int64_t>::max();
constexpr std::size_t kMaxFractionDigits = 9;  // keeps fraction * unit within 64 bits

struct Decimal {
  std::string_view whole;
  std::string_view fraction;
};

bool all_digits(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

std::uint64_t unit_of(char letter) {
  switch (letter) {
    case 'K':
    case 'k': return std::uint64_t{1} << 10;
    case 'M':
    case 'm': return std::uint64_t{1} << 20;
    case 'G':
    case 'g': return std::uint64_t{1} << 30;
    default: return 0;
  }
}

bool split_decimal(std::string_view text, Decimal& out) {
  const auto point = text.find('.');
  out.whole = text.substr(0, point);
  out.fraction = {};
  if (!all_digits(out.whole)) return false;
  if (point == std::string_view::npos) return true;
  out.fraction = text.substr(point + 1);
  return all_digits(out.fraction) && out.fraction.size() <= kMaxFractionDigits;
}

// Whole bytes, rounded down; false when it does not fit.
bool to_bytes(const Decimal& number, std::uint64_t unit, std::uint64_t& bytes) {
  std::uint64_t whole = 0;
  for (char digit : number.whole) {
    if (whole > kMaxBytes / 10) return false;
    whole = whole * 10 + static_cast<std::uint64_t>(digit - '0');
  }
  if (whole > kMaxBytes / unit) return false;
  std::uint64_t fraction = 0;
  std::uint64_t scale = 1;
  for (char digit : number.fraction) {
    fraction = fraction * 10 + static_cast<std::uint64_t>(digit - '0');
    scale *= 10;
  }
  bytes = whole * unit + fraction * unit / scale;
  return bytes <= kMaxBytes;
}

}  // namespace

Outcome<std::uint64_t> parse_bandwidth(std::string_view text) {
  const auto rubbish = usage_error(fmt::format("'{}' is not a number of bytes per second", text),
                                   "Give for example 50M, 1.5G or 800K (powers of 1024), or 0 for no limit.");
  if (text.empty()) return rubbish;
  const std::uint64_t unit = unit_of(text.back());
  Decimal number;
  if (!split_decimal(unit ? text.substr(0, text.size() - 1) : text, number)) return rubbish;
  if (!unit && !number.fraction.empty()) return rubbish;
  std::uint64_t bytes = 0;
  if (!to_bytes(number, unit ? unit : 1, bytes)) {
    return usage_error(fmt::format("'{}' is more bytes per second than there can be", text),
                       "Give less, or 0 for no limit.");
  }
  // 0 means "no limit", so 0.0001K must not become it.
  if (bytes == 0 && text.find_first_of("123456789") != std::string_view::npos) {
    return usage_error(fmt::format("'{}' is less than one byte per second", text), "Give more, or 0 for no limit.");
  }
  return bytes;
}

std::string format_bytes(double bytes) {
  constexpr std::array kUnits = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
  std::size_t unit = 0;
  // 1023.95 would be printed as "1024.0".
  while (bytes >= (unit == 0 ? 1024.0 : 1023.95) && unit + 1 < kUnits.size()) {
    bytes /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} bytes", bytes) : fmt::format("{:.1f} {}", bytes, kUnits[unit]);
}

std::string format_rate(double bytes_per_s) { return fmt::format("{:.1f} MB/s", bytes_per_s / 1e6); }

std::string format_seconds(double seconds) {
  if (seconds < 1) return fmt::format("{:.3f} s", seconds);
  if (seconds < 60) return fmt::format("{:.1f} s", seconds);
  const auto whole = std::llround(seconds);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

std::string format_clock(double seconds) {
  const auto whole = std::llround(std::clamp(seconds, 0.0, 359999.0));
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole % 3600 / 60, whole % 60);
}

std::string format_age(double seconds) {
  const auto whole = static_cast<long long>(std::max(seconds, 0.0));
  if (whole < 120) return fmt::format("{}s", whole);
  if (whole < 7200) return fmt::format("{}m", whole / 60);
  if (whole < 172800) return fmt::format("{}h", whole / 3600);
  return fmt::format("{}d", whole / 86400);
}

}  // namespace poolshift::cli
