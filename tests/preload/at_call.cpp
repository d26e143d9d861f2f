// Preloaded into `poolshift` by the integration tests (LD_PRELOAD), to have something happen exactly between two steps
// of a handover's switch, or within one that librbd makes of several. By the environment:
//
//   POOLSHIFT_AT=STEP        suspend, snapshot, clone, overlay, copy, pivot or resume, and of a domain that is off
//                            definition or rename: the call that makes this step; write-N: librbd's Nth call that
//                            changes something in the cluster other than an image's data
//   POOLSHIFT_AT_WHEN=WHEN   before or after it
//   POOLSHIFT_AT_DO=COMMAND  what the shell is told, once, with SELF, the id of this process; the call waits for it
//
// Any other program, and what `poolshift` starts, is left alone.
#include <dlfcn.h>
#include <errno.h>
#include <libvirt/libvirt.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <rbd/librbd.hpp>
#include <string>
#include <string_view>

#define EXPORTED __attribute__((visibility("default")))

namespace {

struct Plan {
  std::string step;
  std::string when;
  std::string command;
};

std::string taken_from_environment(const char* name) {
  const char* value = ::getenv(name);
  const std::string text = value == nullptr ? "" : value;
  ::unsetenv(name);
  return text;
}

// Before main(): there are no other threads that look at the environment.
Plan read_plan() {
  if (std::strcmp(program_invocation_short_name, "poolshift") != 0) return {};
  ::unsetenv("LD_PRELOAD");
  ::setenv("SELF", std::to_string(::getpid()).c_str(), 1);
  Plan plan;
  plan.step = taken_from_environment("POOLSHIFT_AT");
  plan.when = taken_from_environment("POOLSHIFT_AT_WHEN");
  plan.command = taken_from_environment("POOLSHIFT_AT_DO");
  return plan;
}

const Plan kPlan = read_plan();
std::atomic<bool> done = false;
std::atomic<unsigned> changes = 0;

void at(const char* step, const char* when) {
  if (kPlan.step.empty() || kPlan.step != step || kPlan.when != when || done.exchange(true)) return;
  std::fprintf(stderr, "at-call: %s %s: %s\n", when, step, kPlan.command.c_str());
  const int status = ::system(kPlan.command.c_str());
  if (status != 0) std::fprintf(stderr, "at-call: it ended with status %d\n", status);
}

// `Function`: of the real one, the next that has this name; of a member function as one that gets `this`.
template <class Function>
Function* real(const char* name) {
  void* found = ::dlsym(RTLD_NEXT, name);
  if (found != nullptr) return reinterpret_cast<Function*>(found);
  std::fprintf(stderr, "at-call: there is no '%s'\n", name);
  ::abort();
}

template <class Function, class... Arguments>
auto call(const char* step, const char* name, Arguments&&... arguments) {
  auto* function = real<Function>(name);
  at(step, "before");
  auto result = function(arguments...);
  at(step, "after");
  return result;
}

// One of librbd's changes to the cluster. `object` is empty where it is to none.
template <class Function, class... Arguments>
auto change(std::string_view object, const char* name, Arguments&&... arguments) {
  auto* function = real<Function>(name);
  if (!object.starts_with("rbd_data.")) at(("write-" + std::to_string(++changes)).c_str(), "before");
  return function(arguments...);
}

}  // namespace

extern "C" {

EXPORTED int virDomainSuspend(virDomainPtr domain) {
  return call<decltype(virDomainSuspend)>("suspend", "virDomainSuspend", domain);
}

EXPORTED int virDomainResume(virDomainPtr domain) {
  return call<decltype(virDomainResume)>("resume", "virDomainResume", domain);
}

EXPORTED virDomainSnapshotPtr virDomainSnapshotCreateXML(virDomainPtr domain, const char* xml, unsigned int flags) {
  return call<decltype(virDomainSnapshotCreateXML)>("overlay", "virDomainSnapshotCreateXML", domain, xml, flags);
}

EXPORTED int virDomainBlockCopy(virDomainPtr domain, const char* disk, const char* xml, virTypedParameterPtr params,
                                int nparams, unsigned int flags) {
  return call<decltype(virDomainBlockCopy)>("copy", "virDomainBlockCopy", domain, disk, xml, params, nparams, flags);
}

EXPORTED int virDomainBlockJobAbort(virDomainPtr domain, const char* disk, unsigned int flags) {
  const bool pivots = (flags & VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT) != 0;
  return call<decltype(virDomainBlockJobAbort)>(pivots ? "pivot" : "", "virDomainBlockJobAbort", domain, disk, flags);
}

EXPORTED int virDomainUpdateDeviceFlags(virDomainPtr domain, const char* xml, unsigned int flags) {
  return call<decltype(virDomainUpdateDeviceFlags)>("definition", "virDomainUpdateDeviceFlags", domain, xml, flags);
}

}  // extern "C"

namespace librbd {

EXPORTED int Image::snap_create2(const char* name, uint32_t flags, ProgressContext& progress) {
  return call<int(Image*, const char*, uint32_t, ProgressContext&)>(
      "snapshot", "_ZN6librbd5Image12snap_create2EPKcjRNS_15ProgressContextE", this, name, flags, progress);
}

EXPORTED int RBD::clone3(librados::IoCtx& parent_pool, const char* parent, const char* snapshot,
                         librados::IoCtx& clone_pool, const char* clone, ImageOptions& options) {
  return call<int(RBD*, librados::IoCtx&, const char*, const char*, librados::IoCtx&, const char*, ImageOptions&)>(
      "clone", "_ZN6librbd3RBD6clone3ERN8librados7v14_2_05IoCtxEPKcS6_S4_S6_RNS_12ImageOptionsE", this, parent_pool,
      parent, snapshot, clone_pool, clone, options);
}

// That of a clone; a target that is set aside is renamed too.
EXPORTED int RBD::rename(librados::IoCtx& pool, const char* from, const char* to) {
  const bool is_clone = std::string_view(from).ends_with(".clone");
  return call<int(RBD*, librados::IoCtx&, const char*, const char*)>(
      is_clone ? "rename" : "", "_ZN6librbd3RBD6renameERN8librados7v14_2_05IoCtxEPKcS6_", this, pool, from, to);
}

}  // namespace librbd

namespace librados {

#define IO_CTX "_ZN8librados7v14_2_05IoCtx"
#define STRING "RKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"

EXPORTED int IoCtx::operate(const std::string& object, ObjectWriteOperation* operation) {
  return change<int(IoCtx*, const std::string&, ObjectWriteOperation*)>(
      object, IO_CTX "7operateE" STRING "PNS0_20ObjectWriteOperationE", this, object, operation);
}

EXPORTED int IoCtx::aio_operate(const std::string& object, AioCompletion* completion, ObjectWriteOperation* operation) {
  return change<int(IoCtx*, const std::string&, AioCompletion*, ObjectWriteOperation*)>(
      object, IO_CTX "11aio_operateE" STRING "PNS0_13AioCompletionEPNS0_20ObjectWriteOperationE", this, object,
      completion, operation);
}

EXPORTED int IoCtx::remove(const std::string& object) {
  return change<int(IoCtx*, const std::string&)>(object, IO_CTX "6removeE" STRING, this, object);
}

EXPORTED int IoCtx::aio_remove(const std::string& object, AioCompletion* completion) {
  return change<int(IoCtx*, const std::string&, AioCompletion*)>(
      object, IO_CTX "10aio_removeE" STRING "PNS0_13AioCompletionE", this, object, completion);
}

EXPORTED void IoCtx::aio_selfmanaged_snap_create(uint64_t* id, AioCompletion* completion) {
  change<void(IoCtx*, uint64_t*, AioCompletion*)>("", IO_CTX "27aio_selfmanaged_snap_createEPmPNS0_13AioCompletionE",
                                                  this, id, completion);
}

EXPORTED void IoCtx::aio_selfmanaged_snap_remove(uint64_t id, AioCompletion* completion) {
  change<void(IoCtx*, uint64_t, AioCompletion*)>("", IO_CTX "27aio_selfmanaged_snap_removeEmPNS0_13AioCompletionE",
                                                 this, id, completion);
}

}  // namespace librados
