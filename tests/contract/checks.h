// How the contract's cases look at a Result.
#pragma once

#include <catch2/catch.hpp>

#include "base/result.h"
#include "world.h"

// Fails the case, with the error, when `expression` has one.
#define REQUIRE_OK(expression)                                          \
  do {                                                                  \
    const auto& result_ = (expression);                                 \
    if (!result_) FAIL(#expression << ": " << result_.error().message); \
  } while (false)

#define CHECK_ERROR(expression, expected)                                 \
  do {                                                                    \
    const auto& result_ = (expression);                                   \
    if (result_.ok()) {                                                   \
      FAIL_CHECK(#expression << " succeeded");                            \
    } else {                                                              \
      INFO(result_.error().message);                                      \
      CHECK(name_of(result_.error().code) == name_of(expected));          \
      CHECK_FALSE(result_.error().message.empty());                       \
      if (world().is_real()) CHECK_FALSE(result_.error().advice.empty()); \
    }                                                                     \
  } while (false)
