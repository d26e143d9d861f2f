// The switch changes the disk's source and nothing else.
#pragma once

#include "base/result.h"
#include "engine/swap.h"

namespace poolshift {

// Compares the disk's live and persistent XML with what they were before the swap, once, right after the switch.
// `failed` tells the difference. Ok when the domain is gone, or when an older version began the job and remembered
// nothing.
Status compare_disk(Swap& swap);

}  // namespace poolshift
