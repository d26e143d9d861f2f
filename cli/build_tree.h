// What the command finds by itself when it is run from the folder that it was built in.
#pragma once

#include <string>

namespace poolshift::cli {

// The guardian of the build tree that `program` is the command of. Empty when it is not of a build tree, and when
// somebody else than root and this user may write there.
std::string guardian_of_build_tree(const std::string& program);

// What /proc/self/exe names.
std::string running_program();

}  // namespace poolshift::cli
