// What only the real world has: the command line tools of the stack. Each throws when the tool fails.
#pragma once

#include <string>

#include "world.h"

namespace poolshift::contract {

std::string variable(const char* name);
std::string shell_quoted(const std::string& text);
std::string run(const std::string& command);
// As the cluster's administrator.
std::string ceph(const std::string& arguments);
std::string rbd(const std::string& arguments);
std::string virsh(const std::string& arguments);

}  // namespace poolshift::contract
