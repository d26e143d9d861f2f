#include "adapters/qcow2.h"

#include <fmt/core.h>

namespace poolshift {
namespace {

constexpr std::uint64_t kClusterBits = 16;
constexpr std::uint64_t kClusterBytes = 1U << kClusterBits;
constexpr std::uint64_t kBytesPerL1Entry = kClusterBytes * (kClusterBytes / 8);  // 512 MiB
constexpr std::uint64_t kMaxL1Bytes = 32ULL << 20;                               // QEMU's own limit
constexpr std::uint64_t kRefcountTableAt = 1 * kClusterBytes;
constexpr std::uint64_t kRefcountBlockAt = 2 * kClusterBytes;
constexpr std::uint64_t kL1TableAt = 3 * kClusterBytes;
constexpr std::uint32_t kHeaderBytes = 104;
constexpr std::uint32_t kRefcountOrder = 4;  // 2 bytes each

void put(std::string& out, std::size_t at, std::uint64_t value, unsigned bytes) {
  for (unsigned i = 0; i < bytes; ++i) out[at + i] = static_cast<char>(value >> (8 * (bytes - 1 - i)));
}

}  // namespace

// The fields are those of QEMU's docs/interop/qcow2.txt.
Result<EmptyQcow2> empty_qcow2(std::uint64_t size_bytes) {
  const auto l1_entries = size_bytes / kBytesPerL1Entry + (size_bytes % kBytesPerL1Entry != 0 ? 1 : 0);
  const auto l1_bytes = l1_entries * 8;
  if (size_bytes == 0 || size_bytes % 512 != 0 || l1_bytes > kMaxL1Bytes) {
    return Error{ErrorCode::invalid, fmt::format("An overlay cannot have {} bytes", size_bytes),
                 "Use the engine mirror."};
  }
  EmptyQcow2 file;
  file.file_bytes = kL1TableAt + l1_bytes;
  file.begin.assign(kL1TableAt, '\0');
  auto& out = file.begin;
  put(out, 0, 0x514649fb, 4);  // "QFI\xfb"
  put(out, 4, 3, 4);           // version
  put(out, 20, kClusterBits, 4);
  put(out, 24, size_bytes, 8);
  put(out, 36, l1_entries, 4);
  put(out, 40, kL1TableAt, 8);
  put(out, 48, kRefcountTableAt, 8);
  put(out, 56, 1, 4);  // clusters of the refcount table
  put(out, 96, kRefcountOrder, 4);
  put(out, 100, kHeaderBytes, 4);  // the end of the header's extensions follows: zeros
  put(out, kRefcountTableAt, kRefcountBlockAt, 8);
  const auto clusters = 3 + (l1_bytes + kClusterBytes - 1) / kClusterBytes;
  for (std::uint64_t i = 0; i < clusters; ++i) put(out, kRefcountBlockAt + 2 * i, 1, 2);
  return file;
}

}  // namespace poolshift
