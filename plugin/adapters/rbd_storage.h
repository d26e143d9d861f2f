// Ceph as PoolShift's storage: librados and librbd in this process.
//
// Nothing here waits for ever (the time limits are in the .cpp: a cluster that does not answer is
// `unreachable`), writes a log, or opens an admin socket. Images are only read through read-only openings,
// which register no watch.
#pragma once

#include <memory>

#include "ports/storage.h"

namespace poolshift {

std::unique_ptr<Storage> make_rbd_storage();

}  // namespace poolshift
