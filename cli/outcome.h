// Outcome<T>: a value, or the failure that the command ends with.
#pragma once

#include <poolshift.h>

#include <string>
#include <utility>
#include <variant>

namespace poolshift::cli {

// Of 'poolshift doctor', beside enum poolshift_result: a finding is "warn" and none is "fail".
inline constexpr int kExitWarnings = 8;

// The same keys as the library's error objects, and the exit code that goes with them.
struct Failure {
  int exit_code = POOLSHIFT_INTERNAL;
  std::string code = "internal";
  std::string message;  // what was found and where
  std::string advice;   // what to do about it
};

inline Failure usage_error(std::string message, std::string advice) {
  return {POOLSHIFT_USAGE, "invalid", std::move(message), std::move(advice)};
}

template <class T>
class [[nodiscard]] Outcome {
 public:
  Outcome(T value) : state_(std::move(value)) {}            // NOLINT(google-explicit-constructor)
  Outcome(Failure failure) : state_(std::move(failure)) {}  // NOLINT(google-explicit-constructor)

  explicit operator bool() const { return std::holds_alternative<T>(state_); }
  T& operator*() { return std::get<T>(state_); }
  const T& operator*() const { return std::get<T>(state_); }
  T* operator->() { return &std::get<T>(state_); }
  const T* operator->() const { return &std::get<T>(state_); }
  const Failure& failure() const { return std::get<Failure>(state_); }

 private:
  std::variant<T, Failure> state_;
};

}  // namespace poolshift::cli
