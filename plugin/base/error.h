// The table of errors. `name` is durable (journals, JSON reports): never rename one, only add.
#pragma once

#include <string>
#include <string_view>

namespace poolshift {

enum class ErrorCode {
  invalid,      // the request or an option is malformed: nothing was looked at
  refused,      // validation refused: nothing was changed
  not_found,    // domain, disk, pool, image or job does not exist
  exists,       // something of that name exists already
  denied,       // libvirt or the cluster does not let us
  busy,         // somebody else uses it now
  unreachable,  // libvirtd or the cluster does not answer; trying again may help
  damaged,      // a journal or another file of ours cannot be trusted
  unsupported,  // this version of libvirt, QEMU or librbd cannot do it
  failed,       // the operation was tried and failed
  cancelled,    // an operator asked for it
  left,         // the caller asked us to stop following; the job stays open for recover
  internal,     // a bug in PoolShift
};

constexpr std::string_view name_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid: return "invalid";
    case ErrorCode::refused: return "refused";
    case ErrorCode::not_found: return "not_found";
    case ErrorCode::exists: return "exists";
    case ErrorCode::denied: return "denied";
    case ErrorCode::busy: return "busy";
    case ErrorCode::unreachable: return "unreachable";
    case ErrorCode::damaged: return "damaged";
    case ErrorCode::unsupported: return "unsupported";
    case ErrorCode::failed: return "failed";
    case ErrorCode::cancelled: return "cancelled";
    case ErrorCode::left: return "left";
    case ErrorCode::internal: return "internal";
  }
  return "internal";
}

// One sentence of what was found and where (`message`), and one of what to do about it (`advice`).
struct Error {
  ErrorCode code = ErrorCode::internal;
  std::string message;
  std::string advice;
};

}  // namespace poolshift
