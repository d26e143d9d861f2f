// Gives the guest its own write limit back after a copy that had to be made to converge.
#pragma once

#include "engine/swap.h"

namespace poolshift {

// Ok when there is nothing to restore, or the domain is gone or stopped (a limit of ours lives only as long as its
// QEMU).
Status restore_write_limit(Swap& swap);

}  // namespace poolshift
