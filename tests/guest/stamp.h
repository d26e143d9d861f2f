// What every 4 KiB block that the guest writes looks like. Shared by the writer in the guest and the checker outside.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace stamp {

inline constexpr std::size_t kBlockBytes = 4096;
inline constexpr std::size_t kWords = kBlockBytes / sizeof(std::uint64_t);
inline constexpr std::uint64_t kMagic = 0x706f6f6c73686674;  // "poolshft"

// Word positions. The payload is pseudo-random from the words before it, so that no block is like another, compressible
// or zero; the last word is a checksum over all the others.
inline constexpr std::size_t kMagicWord = 0;
inline constexpr std::size_t kDiskWord = 1;
inline constexpr std::size_t kBlockWord = 2;
inline constexpr std::size_t kSequenceWord = 3;
inline constexpr std::size_t kTimeWord = 4;
inline constexpr std::size_t kPayloadWord = 5;
inline constexpr std::size_t kChecksumWord = kWords - 1;

using Words = std::array<std::uint64_t, kWords>;

// "vda" as a number.
inline std::uint64_t disk_code(std::string_view disk) {
  std::uint64_t code = 0;
  std::memcpy(&code, disk.data(), disk.size() < sizeof code ? disk.size() : sizeof code);
  return code;
}

inline std::uint64_t mix(std::uint64_t value) {  // splitmix64
  value += 0x9e3779b97f4a7c15;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

// FNV-1a by words instead of bytes: the guest runs under an emulated CPU. Multiplication by an odd number is bijective,
// so any change of a single word shows.
inline std::uint64_t checksum(const Words& words) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (std::size_t i = 0; i < kChecksumWord; ++i) hash = (hash ^ words[i]) * 0x100000001b3;
  return mix(hash);
}

inline void fill(Words& words, std::uint64_t disk, std::uint64_t block, std::uint64_t sequence, std::uint64_t time_us) {
  words[kMagicWord] = kMagic;
  words[kDiskWord] = disk;
  words[kBlockWord] = block;
  words[kSequenceWord] = sequence;
  words[kTimeWord] = time_us;
  std::uint64_t state = mix(mix(sequence) ^ block) ^ disk;
  for (std::size_t i = kPayloadWord; i < kChecksumWord; ++i) {
    state = state * 6364136223846793005 + 1442695040888963407;
    words[i] = state ^ (state >> 29);
  }
  words[kChecksumWord] = checksum(words);
}

inline bool is_valid(const Words& words) {
  return words[kMagicWord] == kMagic && words[kChecksumWord] == checksum(words);
}

inline bool is_zero(const Words& words) {
  for (const std::uint64_t word : words) {
    if (word != 0) return false;
  }
  return true;
}

}  // namespace stamp
