// The end of every command that moves a disk.
#pragma once

#include "library.h"
#include "options.h"
#include "signals.h"

namespace poolshift::cli {

// Starts the swap that the options describe, shows its progress and its end; gives the exit code.
int swap_and_follow(const char* name, const Options& options, Host& host, SignalWatch& signals);

}  // namespace poolshift::cli
