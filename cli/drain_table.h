// What is shown of a drain: one line for each disk, the total below.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "document.h"

namespace poolshift::cli {

struct DrainLine {
  std::string domain;
  std::string disk;
  std::string source;
  std::string target;
  std::string state;  // waiting, running, held, done, refused, undone, cancelled, removed, failed, left out
  std::string job;
  std::string why;  // of what did not move
  Document status;  // of a running swap
};

// In place on a terminal (`columns` and `rows` above 0: what does not fit is left out, running ones last), else whole.
std::string drain_table(const std::vector<DrainLine>& lines, std::size_t columns, std::size_t rows);

// "5 of 8 disks moved, 2 running, 1 waiting"
std::string drain_total(const std::vector<DrainLine>& lines);

class DrainView {
 public:
  // Draws on a terminal; elsewhere a line for each change of a disk's state.
  explicit DrainView(int fd);

  void show(const std::vector<DrainLine>& lines);
  // A line above what is drawn.
  void note(const std::string& text);
  void clear();

 private:
  int fd_;
  bool in_place_;
  std::size_t drawn_ = 0;
  std::map<std::string, std::string> states_;
};

}  // namespace poolshift::cli
