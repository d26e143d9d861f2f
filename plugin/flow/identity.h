// An image is known by its id: another one may have got its name since.
#pragma once

#include <string>

#include "base/result.h"
#include "engine/swap.h"

namespace poolshift {

// Ok when the image of this name has the id that the job recorded, or the job recorded none (an older version began
// it). `failed` names both ids; `not_found` when there is no such image.
Status expect_id(Cluster& cluster, const ImageName& name, const std::string& id);

// Before an image is renamed, resized or put away: no domain of this host names it, no client has it open. Waits for a
// client that has just died.
Status prove_unused(Swap& swap, Cluster& cluster, const ImageName& name);

}  // namespace poolshift
