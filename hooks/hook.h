// What poolshift-qemu-hook answers libvirt, without the process around it. It looks first whether there is a reason to
// do anything, reads the domain's XML only then, and never keeps a domain from starting but by an objection
// (verdict.h): whatever cannot be read is passed over, and said in `log`.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "ports/system.h"

namespace poolshift::hook {

struct HookFolders {
  std::string state;   // STATE_DIR
  std::string policy;  // *.json
};

struct LogLine {
  enum class Level { info, warning, error };
  Level level = Level::info;
  std::string text;
};

struct Answer {
  bool refused = false;
  std::string complaint;  // one line for stderr, which libvirt shows to whoever wanted to start the domain
  std::string xml;        // for stdout: what the domain starts with instead; empty: what it came with
  std::vector<LogLine> log;
};

// `operation` is libvirt's word, the hook's second argument. `read_xml` gives what is on standard input.
Answer answer(System& system, const HookFolders& folders, const std::string& operation,
              const std::function<Result<std::string>()>& read_xml);

}  // namespace poolshift::hook
