#include "output.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "text.h"

namespace poolshift::cli {

void open_standard_fds() {
  for (int fd = 0; fd <= kStderr; ++fd) {
    // open() takes the lowest free number, which is this one: the lower ones are open by now.
    if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0) return;
  }
}

void write_text(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

void write_line(int fd, std::string_view line) { write_text(fd, std::string(line) + "\n"); }

void write_document(const Document& document) { write_line(kStdout, to_line(document)); }

bool is_terminal(int fd) {
  if (!isatty(fd)) return false;
  const char* term = std::getenv("TERM");
  return term && *term && std::string_view(term) != "dumb";
}

std::size_t columns_of(int fd) {
  if (!isatty(fd)) return 0;
  winsize size{};
  if (ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

std::size_t rows_of(int fd) {
  if (!isatty(fd)) return 0;
  winsize size{};
  if (ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_row == 0) return 24;
  return size.ws_row;
}

std::string sentence_of(const Failure& failure) {
  auto text = printable(failure.message);
  if (!text.empty() && text.back() != '.') text += '.';
  if (!failure.advice.empty()) text += ' ' + printable(failure.advice);
  return text;
}

int report_failure(std::string_view command, const Failure& failure, bool json) {
  write_line(kStderr, fmt::format("{}: {}", command, sentence_of(failure)));
  if (json) {
    const Document error = {
        {"schema", 1}, {"code", failure.code}, {"message", failure.message}, {"advice", failure.advice}};
    write_document({{"schema", 1}, {"error", error}});
  }
  return failure.exit_code;
}

}  // namespace poolshift::cli
