// Where text goes. Write errors are ignored (the reader has gone, the terminal was closed): the swap matters
// more.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "document.h"
#include "outcome.h"

namespace poolshift::cli {

inline constexpr int kStdout = 1;
inline constexpr int kStderr = 2;

// Opens /dev/null on those of 0, 1 and 2 that are closed: a journal must never be opened as "stdout".
void open_standard_fds();

void write_text(int fd, std::string_view text);
void write_line(int fd, std::string_view line);
void write_document(const Document& document);  // one line on stdout

bool is_terminal(int fd);        // that understands control sequences: not TERM=dumb
std::size_t columns_of(int fd);  // of a terminal; 0: not a terminal, lines may be of any length

std::size_t rows_of(int fd);  // likewise

// "poolshift swap: MESSAGE. ADVICE" on stderr, and with `json` the same as an object on stdout. Gives the
// exit code.
int report_failure(std::string_view command, const Failure& failure, bool json);

// "MESSAGE. ADVICE"
std::string sentence_of(const Failure& failure);

}  // namespace poolshift::cli
