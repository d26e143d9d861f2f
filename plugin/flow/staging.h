// Images are created under a name that carries the job id, completed, then renamed: whenever a crash happens, an image
// of the target's name is whole, and what is left over is known to be ours by its name.
#pragma once

#include "engine/job_record.h"
#include "ports/storage.h"

namespace poolshift {

ImageName staging_name(const JobRecord& record);

// An image of the target's name with all that `spec` says. Goes on with what an earlier run left.
Status create_by_staging(Cluster& cluster, const JobRecord& record, const ImageSpec& spec);

}  // namespace poolshift
