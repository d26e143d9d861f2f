// The phases of a swap, which phase may follow which, and which verb is allowed when. Nothing else decides this.
// Names are durable (journals): never rename one, only add.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace poolshift {

enum class Phase {
  prepare,         // the target is made ready; the guest's disk is not touched
  copy,            // the block copy runs; the guest is on the source
  pivot,           // the point of no return: the guest is being switched
  retire,          // the guest is on the target; the source is let go
  done,            // ended: everything is as asked
  undo,            // the guest is on the source; what we made is taken back
  undone,          // ended: everything is as it was
  held_on_source,  // parked: the guest is on the source, an operator is needed
  held_unknown,    // parked: it could not be proven where the guest is
  held_on_target,  // parked: the guest is on the target, an operator is needed
  pause,           // handover: the guest is suspended on the source while the target is made its clone
  hydrate,         // handover: the guest runs on the target, which gets its data from the source
};
inline constexpr std::size_t kPhaseCount = 12;

enum class Verb { set_bandwidth, cancel };
inline constexpr std::size_t kVerbCount = 2;

constexpr std::size_t index_of(Phase phase) { return static_cast<std::size_t>(phase); }
constexpr std::size_t index_of(Verb verb) { return static_cast<std::size_t>(verb); }

inline constexpr std::array<std::string_view, kPhaseCount> kPhaseNames = {
    "prepare", "copy",           "pivot",        "retire",         "done",  "undo",
    "undone",  "held_on_source", "held_unknown", "held_on_target", "pause", "hydrate"};
inline constexpr std::array<std::string_view, kVerbCount> kVerbNames = {"set bandwidth", "cancel"};

constexpr std::string_view name_of(Phase phase) { return kPhaseNames[index_of(phase)]; }
constexpr std::string_view name_of(Verb verb) { return kVerbNames[index_of(verb)]; }
std::optional<Phase> phase_named(std::string_view name);

// kMoves[from][to]. `pivot` reaches `undo` only through recover.cpp's proof that the guest never left the source.
inline constexpr bool kMoves[kPhaseCount][kPhaseCount] = {
    // clang-format off
    // to: prepare copy pivot retire done  undo  undone on_src unknown on_tgt pause hydrate       from:
    {false, true,  false, false, false, true,  false, true,  true,  false, true,  false},      // prepare
    {false, false, true,  true,  false, true,  false, true,  true,  false, false, false},      // copy
    {false, true,  false, true,  false, true,  false, true,  true,  true,  false, true},       // pivot
    {false, false, false, false, true,  false, false, false, false, true,  false, false},      // retire
    {false, false, false, false, false, false, false, false, false, false, false, false},      // done
    {false, false, false, false, false, false, true,  true,  true,  false, false, false},      // undo
    {false, false, false, false, false, false, false, false, false, false, false, false},      // undone
    {true,  true,  true,  true,  false, true,  false, false, true,  true,  false, true},       // held_on_source
    {true,  true,  true,  true,  false, true,  false, true,  false, true,  false, true},       // held_unknown
    {false, false, false, true,  false, false, false, false, false, false, false, true},       // held_on_target
    {false, false, true,  false, false, true,  false, true,  true,  false, false, true},       // pause
    {false, false, false, true,  false, false, false, false, false, true,  false, false},      // hydrate
    // clang-format on
};

// kVerbs[verb][phase]: what a person may ask for while the job is in that phase. Cancelled in `pause` or before, the
// swap is undone; cancelled in `hydrate` the guest stays on the target and the job is held there.
inline constexpr bool kVerbs[kVerbCount][kPhaseCount] = {
    // clang-format off
    // prepare copy pivot retire done  undo  undone on_src unknown on_tgt pause hydrate
    {true, true, false, false, false, false, false, false, false, false, true, true},  // set_bandwidth
    {true, true, false, false, false, false, false, false, false, false, true, true},  // cancel
    // clang-format on
};

constexpr bool may_move(Phase from, Phase to) { return kMoves[index_of(from)][index_of(to)]; }
constexpr bool may(Verb verb, Phase phase) { return kVerbs[index_of(verb)][index_of(phase)]; }
constexpr bool has_ended(Phase phase) { return phase == Phase::done || phase == Phase::undone; }
constexpr bool is_held(Phase phase) {
  return phase == Phase::held_on_source || phase == Phase::held_unknown || phase == Phase::held_on_target;
}

// Ok, or why not, naming job, phase and verb.
Status check_verb(Verb verb, Phase phase, std::string_view job_id);

namespace transitions_detail {
constexpr bool reaches(Phase from, Phase goal, int depth = 0) {
  if (from == goal) return true;
  if (depth > static_cast<int>(kPhaseCount)) return false;
  for (std::size_t to = 0; to < kPhaseCount; ++to) {
    if (kMoves[index_of(from)][to] && reaches(static_cast<Phase>(to), goal, depth + 1)) return true;
  }
  return false;
}
constexpr bool ended_phases_are_final() {
  for (std::size_t to = 0; to < kPhaseCount; ++to) {
    if (kMoves[index_of(Phase::done)][to] || kMoves[index_of(Phase::undone)][to]) return false;
  }
  return true;
}
}  // namespace transitions_detail

static_assert(!transitions_detail::reaches(Phase::retire, Phase::undo),
              "once the guest is on the target, nothing leads to undo");
static_assert(!transitions_detail::reaches(Phase::hydrate, Phase::undo), "nor while the target gets its data");
static_assert(!transitions_detail::reaches(Phase::held_on_target, Phase::undo),
              "a job held on the target only goes forward");
static_assert(transitions_detail::ended_phases_are_final(), "an ended job never moves again");
static_assert(!may(Verb::cancel, Phase::pivot) && !may(Verb::cancel, Phase::retire),
              "past the point of no return nothing can be cancelled");

}  // namespace poolshift
