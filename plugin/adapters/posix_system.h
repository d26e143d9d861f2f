// The operating system as PoolShift needs it: POSIX files and clocks.
//
// Files are made with mode 0640 and folders with 0750 (the umask may only narrow this). A symbolic link as
// the last part of a path is never followed. Temporary files start with a dot, and list_folder() leaves such
// names out: what a crash left of one is never taken for a file.
//
// Programs that it starts get none of this process's descriptors, signal masks and handlers. Children are waited for by
// their own ids only.
#pragma once

#include <memory>

#include "ports/system.h"

namespace poolshift {

std::unique_ptr<System> make_posix_system();

}  // namespace poolshift
