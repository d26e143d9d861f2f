#include "journal/journal.h"

#include <fmt/core.h>

#include <boost/crc.hpp>
#include <charconv>

namespace poolshift {

namespace {

std::uint32_t crc32c(std::string_view bytes) {
  boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true> crc;  // Castagnoli
  crc.process_bytes(bytes.data(), bytes.size());
  return crc.checksum();
}

template <class Number>
bool parse_number(std::string_view digits, int base, Number& number) {
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number, base);
  return error == std::errc() && end == digits.data() + digits.size();
}

// The JSON of one line (without its line break), or what is wrong with the line.
Result<std::string_view> unframe_record(std::string_view line) {
  const auto damaged = [](const char* what) { return Error{ErrorCode::damaged, what, ""}; };
  const auto first_space = line.find(' ');
  if (first_space == std::string_view::npos) return damaged("has no checksum");
  const auto second_space = line.find(' ', first_space + 1);
  if (second_space == std::string_view::npos) return damaged("has no length");
  std::uint32_t checksum = 0;
  std::size_t length = 0;
  if (first_space != 8 || !parse_number(line.substr(0, first_space), 16, checksum)) {
    return damaged("has an unreadable checksum");
  }
  if (!parse_number(line.substr(first_space + 1, second_space - first_space - 1), 10, length)) {
    return damaged("has an unreadable length");
  }
  const auto json = line.substr(second_space + 1);
  if (json.size() != length) return damaged("has a wrong length");
  if (crc32c(json) != checksum) return damaged("has a wrong checksum");
  return json;
}

}  // namespace

std::string frame_record(std::string_view json) {
  return fmt::format("{:08x} {} {}\n", crc32c(json), json.size(), json);
}

Result<Replay> replay_journal(std::string_view content) {
  Replay replay;
  std::size_t line_number = 0;
  while (replay.intact_bytes < content.size()) {
    ++line_number;
    const auto rest = content.substr(replay.intact_bytes);
    const auto line_end = rest.find('\n');
    const bool is_last = line_end == std::string_view::npos || line_end + 1 == rest.size();
    const auto record = unframe_record(rest.substr(0, line_end));
    const bool whole = record.ok() && line_end != std::string_view::npos;
    if (!whole) {
      if (is_last && replay.record_count > 0) return replay;
      const std::string what = record.ok() ? "has no line break" : record.error().message;
      return Error{ErrorCode::damaged, fmt::format("line {} of the journal {}", line_number, what),
                   "Keep the file; look at the domain with 'virsh domblklist' before anything else is done."};
    }
    replay.last_record = *record;
    replay.intact_bytes += line_end + 1;
    ++replay.record_count;
  }
  if (replay.record_count == 0) {
    return Error{ErrorCode::damaged, "the journal is empty",
                 "Keep the file; look at the domain with 'virsh domblklist' before anything else is done."};
  }
  return replay;
}

}  // namespace poolshift
