// Owners of the C handles of libvirt. None of these types leaves adapters/.
#pragma once

#include <libvirt/libvirt.h>
#include <string.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <utility>

#include "adapters/sigpipe.h"

namespace poolshift {

struct DomainDeleter {
  void operator()(virDomain* domain) const { virDomainFree(domain); }
};
using DomainHandle = std::unique_ptr<virDomain, DomainDeleter>;

struct SnapshotDeleter {
  void operator()(virDomainSnapshot* snapshot) const { virDomainSnapshotFree(snapshot); }
};
using SnapshotHandle = std::unique_ptr<virDomainSnapshot, SnapshotDeleter>;

struct SecretDeleter {
  void operator()(virSecret* secret) const { virSecretFree(secret); }
};
using SecretHandle = std::unique_ptr<virSecret, SecretDeleter>;

// Strings and arrays that libvirt allocated with malloc().
struct FreeDeleter {
  void operator()(void* memory) const { std::free(memory); }
};
using CString = std::unique_ptr<char, FreeDeleter>;

// The connection is shared: a call goes on with it when another thread has dropped it meanwhile.
using ConnectHandle = std::shared_ptr<virConnect>;

inline ConnectHandle own_connection(virConnect* connection) {
  if (connection == nullptr) return nullptr;
  return ConnectHandle(connection, [](virConnect* open) {
    const SigpipeBlocked blocked;  // closing says goodbye to a daemon that may be gone
    virConnectClose(open);
  });
}

struct StatsRecordsDeleter {
  void operator()(virDomainStatsRecordPtr* records) const { virDomainStatsRecordListFree(records); }
};
using StatsRecords = std::unique_ptr<virDomainStatsRecordPtr, StatsRecordsDeleter>;

// 0 when there is none of that name. libvirt's drivers differ in the integer type that they use for a name.
inline unsigned long long typed_number(const virTypedParameter* params, int count, const char* name) {
  // virTypedParamsGet() only reads, but takes no pointer to const.
  const virTypedParameter* param = virTypedParamsGet(const_cast<virTypedParameter*>(params), count, name);
  if (param == nullptr) return 0;
  switch (param->type) {
    case VIR_TYPED_PARAM_ULLONG: return param->value.ul;
    case VIR_TYPED_PARAM_LLONG: return static_cast<unsigned long long>(std::max(param->value.l, 0LL));
    case VIR_TYPED_PARAM_UINT: return param->value.ui;
    case VIR_TYPED_PARAM_INT: return static_cast<unsigned long long>(std::max(param->value.i, 0));
    default: return 0;
  }
}

inline std::string_view typed_text(const virTypedParameter* params, int count, const char* name) {
  const virTypedParameter* param = virTypedParamsGet(const_cast<virTypedParameter*>(params), count, name);
  const bool has_text = param != nullptr && param->type == VIR_TYPED_PARAM_STRING && param->value.s != nullptr;
  return has_text ? param->value.s : "";
}

// virTypedParameter[], in both forms: filled by us (virTypedParamsAdd*) and filled by libvirt.
class TypedParams {
 public:
  TypedParams() = default;
  TypedParams(const TypedParams&) = delete;
  TypedParams& operator=(const TypedParams&) = delete;
  ~TypedParams() { virTypedParamsFree(params_, count_); }

  // Zeroed room for `count` parameters, for calls that fill the caller's array.
  bool reserve(int count) {
    virTypedParamsFree(params_, count_);
    count_ = 0;
    capacity_ = count;
    params_ = static_cast<virTypedParameter*>(std::calloc(static_cast<std::size_t>(count), sizeof(virTypedParameter)));
    return params_ != nullptr;
  }
  bool add(const char* name, unsigned long long value) {
    return virTypedParamsAddULLong(&params_, &count_, &capacity_, name, value) == 0;
  }
  bool add(const char* name, unsigned int value) {
    return virTypedParamsAddUInt(&params_, &count_, &capacity_, name, value) == 0;
  }
  unsigned long long number(const char* name) const { return typed_number(params_, count_, name); }

  virTypedParameter* data() { return params_; }
  int size() const { return count_; }
  const virTypedParameter* begin() const { return params_; }
  const virTypedParameter* end() const { return params_ + count_; }
  // For calls that say how many parameters they filled in.
  int* size_slot() { return &count_; }

 private:
  virTypedParameter* params_ = nullptr;
  int count_ = 0;
  int capacity_ = 0;
};

// The clear text of a secret; wiped before it is freed.
class SecretBytes {
 public:
  SecretBytes(unsigned char* bytes, std::size_t size) : bytes_(bytes), size_(size) {}
  SecretBytes(const SecretBytes&) = delete;
  SecretBytes& operator=(const SecretBytes&) = delete;
  ~SecretBytes() {
    if (bytes_ != nullptr) explicit_bzero(bytes_, size_);
    std::free(bytes_);
  }

  explicit operator bool() const { return bytes_ != nullptr; }
  const unsigned char* data() const { return bytes_; }
  std::size_t size() const { return size_; }

 private:
  unsigned char* bytes_;
  std::size_t size_;
};

}  // namespace poolshift
