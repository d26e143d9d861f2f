// Images are created under a name of our own, completed, then renamed: whenever a crash happens, an image of the name
// that was wanted is whole, and what is left over is known to be ours by its name.
#pragma once

#include "engine/job_record.h"
#include "ports/storage.h"

namespace poolshift {

ImageName staging_name(const JobRecord& record);

// An image of this name with all that `spec` says. Goes on with what an earlier run left as `staged`.
Status create_by_staging(Cluster& cluster, const ImageName& staged, const ImageName& name, const ImageSpec& spec);

// Ok when there are not both. A client that dies while it renames an image may leave it with both names: it gets `to`.
Status finish_rename(Cluster& cluster, const ImageName& from, const ImageName& to);

// Ok when there is no image of this name. A client that dies while it moves one to the trash may leave the name behind:
// no image can be opened by it and none can get it, until the move is done again.
Status finish_move_to_trash(Cluster& cluster, const ImageName& name);

}  // namespace poolshift
