// Text from outside: is it UTF-8, how wide is it, may it go to a terminal, what was meant by it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace poolshift::cli {

// Well-formed UTF-8 by RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view text);

// Control characters become '?': names and messages come from XML and from the cluster, and must not steer a
// terminal.
std::string printable(std::string_view text);

// Columns on a terminal, counting one for each code point.
std::size_t display_width(std::string_view text);

// At most `columns` wide; what was cut ends with "~".
std::string clipped(std::string_view text, std::size_t columns);

// Broken at spaces into lines of at most `columns`; a longer word has a line of its own. 0 columns: one line.
std::vector<std::string> wrapped(std::string_view text, std::size_t columns);

// The one of `choices` that was probably meant by `word`; empty when none is near.
std::string nearest(std::string_view word, const std::vector<std::string>& choices);

// `word` as a POSIX shell has to be given it.
std::string shell_quoted(const std::string& word);

}  // namespace poolshift::cli
