// libvirt as PoolShift's hypervisor: public API only, plain calls and no events.
//
// An event loop and a global error handler belong to the process that loads us (Nova has both), so neither is
// registered here. Without an event loop there is no keepalive: a libvirtd that is stopped (not dead) makes a
// call wait for it.
#pragma once

#include <memory>
#include <string>

#include "ports/hypervisor.h"

namespace poolshift {

// Connects at the first call, and again at the call after one that found the connection dead. Calls of
// several threads run side by side.
std::unique_ptr<Hypervisor> make_libvirt_hypervisor(std::string uri);

// Keeps libvirt from writing its errors to standard error; they still come back from the calls. Only for a
// process of our own (the command, the worker): the handler is one for the whole process. Needed because a
// failed virConnectOpen() has no connection yet whose own handler could be set.
void silence_libvirt_errors();

}  // namespace poolshift
