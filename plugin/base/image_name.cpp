#include "base/image_name.h"

#include <fmt/core.h>

namespace poolshift {

std::string to_string(const ImageName& name) {
  if (name.rbd_namespace.empty()) return fmt::format("{}/{}", name.pool, name.image);
  return fmt::format("{}/{}/{}", name.pool, name.rbd_namespace, name.image);
}

Result<ImageName> parse_image_name(std::string_view text) {
  std::vector<std::string> parts(1);
  for (char c : text) {
    if (c == '/') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  bool empty_part = false;
  for (const auto& part : parts) empty_part = empty_part || part.empty();
  if (parts.size() < 2 || parts.size() > 3 || empty_part || text.find('@') != std::string_view::npos) {
    return Error{ErrorCode::invalid, fmt::format("'{}' is not the name of an image", text),
                 "Give it as POOL/IMAGE or POOL/NAMESPACE/IMAGE."};
  }
  if (parts.size() == 2) return ImageName{parts[0], "", parts[1]};
  return ImageName{parts[0], parts[1], parts[2]};
}

}  // namespace poolshift
