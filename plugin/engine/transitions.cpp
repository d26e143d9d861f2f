#include "engine/transitions.h"

#include <fmt/core.h>

namespace poolshift {

std::optional<Phase> phase_named(std::string_view name) {
  for (std::size_t i = 0; i < kPhaseCount; ++i) {
    if (kPhaseNames[i] == name) return static_cast<Phase>(i);
  }
  return std::nullopt;
}

Status check_verb(Verb verb, Phase phase, std::string_view job_id) {
  if (may(verb, phase)) return {};
  std::string advice = "See 'poolshift status'.";
  if (has_ended(phase)) {
    advice = "It has ended: there is nothing left to do.";
  } else if (is_held(phase)) {
    advice = fmt::format("It is held: 'poolshift recover {}' goes on with it.", job_id);
  } else if (phase == Phase::pivot || phase == Phase::retire) {
    advice = "It is past the point of no return and will be finished.";
  } else if (phase == Phase::undo) {
    advice = "It is being undone already: wait for it.";
  }
  return Error{ErrorCode::refused,
               fmt::format("'{}' is not allowed for job '{}' in phase '{}'", name_of(verb), job_id, name_of(phase)),
               advice};
}

}  // namespace poolshift
