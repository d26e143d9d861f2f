// The header of Catch2 2 (Debian 12) in terms of Catch2 3 (Debian 13), so that a test file builds with both.
#pragma once

#include <catch2/catch_all.hpp>
#include <string>

namespace Catch {

struct TestEventListenerBase : EventListenerBase {
  using EventListenerBase::EventListenerBase;
};

inline Matchers::StringContainsMatcher Contains(const std::string& text) { return Matchers::ContainsSubstring(text); }

}  // namespace Catch
