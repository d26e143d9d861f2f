// Runs the steps of flow/flow.h and moves the job from phase to phase: the only code that does.
#pragma once

#include <cstdint>

#include "engine/swap.h"

namespace poolshift {

struct RunOptions {
  std::int64_t patience_ms = 60'000;  // how long libvirtd or the cluster may be away before the job is held
};

enum class Entry {
  fresh,    // the journal was just created
  take_up,  // somebody else began it: look first
};

// Carries the job on until it has ended, is held, or was left; swap.record says which and why. Returns an error only
// when the journal could not be written: then the job stays as its journal has it.
Status run(Swap& swap, Entry entry, const RunOptions& options);

}  // namespace poolshift
