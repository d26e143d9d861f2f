// DoneSignal on Linux: an eventfd that is never read, so that it stays readable for every waiter.
#pragma once

#include <memory>

#include "engine/host.h"

namespace poolshift {

std::unique_ptr<DoneSignal> make_event_fd();

}  // namespace poolshift
