#include "ports/hypervisor.h"

namespace poolshift {

const Disk* Domain::disk(const std::string& target) const {
  for (const auto& candidate : disks) {
    if (candidate.target == target) return &candidate;
  }
  return nullptr;
}

}  // namespace poolshift
