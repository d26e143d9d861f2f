// The transition tables and the recovery table.
#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>
#include <set>
#include <string>

#include "engine/transitions.h"
#include "flow/recover.h"

namespace poolshift {

namespace {

std::vector<Phase> all_phases() {
  std::vector<Phase> phases;
  for (std::size_t i = 0; i < kPhaseCount; ++i) phases.push_back(static_cast<Phase>(i));
  return phases;
}

constexpr Phase kStepPhases[] = {Phase::prepare, Phase::copy,   Phase::pause, Phase::pivot,
                                 Phase::hydrate, Phase::retire, Phase::undo};

std::vector<Facts> all_facts() {
  std::vector<Facts> facts;
  for (auto guest : {Facts::Guest::absent, Facts::Guest::inactive, Facts::Guest::active}) {
    for (auto disk_on : {Facts::DiskOn::source, Facts::DiskOn::overlay, Facts::DiskOn::target, Facts::DiskOn::hidden,
                         Facts::DiskOn::elsewhere, Facts::DiskOn::nowhere}) {
      for (auto copy : {Facts::Copy::none, Facts::Copy::ours, Facts::Copy::ours_pivoting, Facts::Copy::foreign}) {
        for (unsigned proofs = 0; proofs < 8; ++proofs) {
          facts.push_back({guest, disk_on, copy, false, (proofs & 1) != 0, (proofs & 2) != 0, (proofs & 4) != 0});
        }
      }
    }
  }
  return facts;
}

// A row of the recovery table as the comment in flow/recover.h has it.
struct WrittenRow {
  std::string text;
  std::string journal, guest, disk_on, copy, then;  // words of the columns; `copy` may hold two, and a proof

  bool matches(Phase phase, const Facts& facts) const {
    return journal == name_of(phase) && is(guest, name_of(facts.guest)) && is(disk_on, name_of(facts.disk_on)) &&
           matches_copy(facts) && matches_engine(facts);
  }

 private:
  static bool is(const std::string& written, std::string_view name) { return written == "any" || written == name; }
  static std::string_view name_of(Phase phase) { return poolshift::name_of(phase); }
  static std::string_view name_of(Facts::Guest guest) {
    switch (guest) {
      case Facts::Guest::absent: return "absent";
      case Facts::Guest::inactive: return "inactive";
      case Facts::Guest::active: return "active";
    }
    return "?";
  }
  static std::string_view name_of(Facts::DiskOn disk_on) {
    switch (disk_on) {
      case Facts::DiskOn::source: return "source";
      case Facts::DiskOn::overlay: return "overlay";
      case Facts::DiskOn::target: return "target";
      case Facts::DiskOn::hidden: return "hidden";
      case Facts::DiskOn::elsewhere: return "elsewhere";
      case Facts::DiskOn::nowhere: return "nowhere";
    }
    return "?";
  }
  static std::string_view name_of(Facts::Copy copy) {
    switch (copy) {
      case Facts::Copy::none: return "none";
      case Facts::Copy::ours: return "ours";
      case Facts::Copy::ours_pivoting: return "ours_pivoting";
      case Facts::Copy::foreign: return "foreign";
    }
    return "?";
  }
  bool matches_copy(const Facts& facts) const {
    if (copy == "any") return true;
    if (copy == "none, never left") return facts.copy == Facts::Copy::none && facts.never_left_source;
    if (copy == "none, untouched") return facts.copy == Facts::Copy::none && facts.target_untouched;
    if (copy == "none, ours") return facts.copy == Facts::Copy::none || facts.copy == Facts::Copy::ours;
    return copy == name_of(facts.copy);
  }
  bool matches_engine(const Facts& facts) const {
    if (then.ends_with(" [M]")) return !facts.handover;
    if (then.ends_with(" [H]")) return facts.handover;
    return true;
  }
};

std::vector<WrittenRow> written_rows() {
  std::ifstream header(std::string(POOLSHIFT_TEST_DATA) + "/../../../plugin/flow/recover.h");
  REQUIRE(header);
  std::vector<WrittenRow> rows;
  bool in_table = false;
  for (std::string line; std::getline(header, line);) {
    if (line.starts_with("//   journal ")) {
      in_table = true;
    } else if (!line.starts_with("//   ")) {
      in_table = false;
    } else if (in_table) {
      // Two blanks or more, or the width of the column, part two columns.
      const auto column = [&](std::size_t from, std::size_t to) {
        const auto text = line.substr(from, to - from);
        const auto last = text.find_last_not_of(' ');
        return last == std::string::npos ? std::string() : text.substr(0, last + 1);
      };
      rows.push_back({line, column(5, 15), column(15, 25), column(25, 36), "", ""});
      auto rest = line.substr(36);
      const auto gap = rest.find("  ");
      rows.back().copy = rest.substr(0, gap);
      rest = rest.substr(rest.find_first_not_of(' ', gap));
      rows.back().then = rest.substr(0, rest.find("  "));
    }
  }
  return rows;
}

}  // namespace

TEST_CASE("the recovery table in the comment of flow/recover.h is the one that decides") {
  const auto rows = written_rows();
  CHECK(rows.size() > 40);
  std::set<std::string> used;
  for (const auto phase : kStepPhases) {
    for (const auto& facts : all_facts()) {
      const auto row =
          std::find_if(rows.begin(), rows.end(), [&](const auto& each) { return each.matches(phase, facts); });
      REQUIRE(row != rows.end());
      INFO(row->text);
      used.insert(row->text);
      CHECK(row->then.substr(0, row->then.find(" [")) == name_of(decide(phase, facts).next));
    }
  }
  for (const auto& row : rows) {
    INFO(row.text);
    CHECK(used.contains(row.text));
  }
}

TEST_CASE("phase names are unique and come back") {
  for (const auto phase : all_phases()) CHECK(phase_named(name_of(phase)) == phase);
  CHECK_FALSE(phase_named("teleport"));
}

TEST_CASE("a verb that is not allowed names job, phase and verb") {
  const auto refused = check_verb(Verb::cancel, Phase::retire, "0123456789ab");
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == ErrorCode::refused);
  CHECK(refused.error().message == "'cancel' is not allowed for job '0123456789ab' in phase 'retire'");
  CHECK(refused.error().advice.find("point of no return") != std::string::npos);
  CHECK(check_verb(Verb::cancel, Phase::copy, "0123456789ab"));
}

TEST_CASE("whatever is seen, the verdict is a legal move or stays") {
  for (const auto phase : all_phases()) {
    if (has_ended(phase) || is_held(phase)) continue;
    for (const auto& facts : all_facts()) {
      const auto verdict = decide(phase, facts);
      INFO(name_of(phase) << " -> " << name_of(verdict.next) << ": " << verdict.why);
      CHECK((verdict.next == phase || may_move(phase, verdict.next)));
      // A held job is taken up from its phase; the move must be legal from every parking place that phase can lead to.
      for (const auto held : {Phase::held_on_source, Phase::held_unknown, Phase::held_on_target}) {
        if (!may_move(phase, held)) continue;
        const bool stays = is_held(verdict.next);
        INFO("from " << name_of(held));
        const bool backwards =
            held == Phase::held_on_target && verdict.next != Phase::retire && verdict.next != Phase::hydrate;
        CHECK((stays || backwards || may_move(held, verdict.next)));
      }
    }
  }
}

TEST_CASE("once the guest may have been on the target, undo needs the proof that it never left") {
  for (const auto& facts : all_facts()) {
    CHECK(decide(Phase::retire, facts).next != Phase::undo);
    CHECK(decide(Phase::hydrate, facts).next != Phase::undo);
    if (decide(Phase::pivot, facts).next != Phase::undo) continue;
    CHECK(facts.disk_on != Facts::DiskOn::target);
    if (facts.disk_on == Facts::DiskOn::hidden) {
      CHECK(facts.guest == Facts::Guest::inactive);  // and it cannot be started
    } else if (facts.guest != Facts::Guest::active) {
      CHECK(facts.target_untouched);
    } else if (facts.copy == Facts::Copy::ours) {  // it still waits on the overlay: nothing was switched
      CHECK(facts.disk_on == Facts::DiskOn::overlay);
    } else {
      CHECK(facts.never_left_source);
      CHECK(facts.copy == Facts::Copy::none);
    }
  }
}

TEST_CASE("a disk that is on another image, or has somebody else's copy, is never acted on") {
  for (const auto phase : kStepPhases) {
    for (const auto& facts : all_facts()) {
      if (facts.copy == Facts::Copy::foreign || facts.disk_on == Facts::DiskOn::elsewhere) {
        CHECK(is_held(decide(phase, facts).next));
      }
    }
  }
}

TEST_CASE("undo never runs while the disk names the target") {
  for (const auto phase : kStepPhases) {
    for (const auto& facts : all_facts()) {
      if (facts.disk_on == Facts::DiskOn::target) CHECK(decide(phase, facts).next != Phase::undo);
    }
  }
}

TEST_CASE("a guest that is active on a target that is not there is held") {
  for (const auto phase : kStepPhases) {
    for (const auto& facts : all_facts()) {
      if (facts.disk_on != Facts::DiskOn::hidden || facts.guest == Facts::Guest::inactive) continue;
      CHECK(is_held(decide(phase, facts).next));
    }
  }
}

TEST_CASE("a verdict says where the guest is only when that is known") {
  for (const auto phase : kStepPhases) {
    for (const auto& facts : all_facts()) {
      const auto verdict = decide(phase, facts);
      if (facts.disk_on == Facts::DiskOn::target) CHECK(verdict.guest_on != GuestOn::source);
      if (facts.disk_on == Facts::DiskOn::source) CHECK(verdict.guest_on != GuestOn::target);
    }
  }
}

}  // namespace poolshift
