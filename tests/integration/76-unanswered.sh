#!/bin/bash
# A call of librbd does not return (tests/preload/at_call.cpp), although what was asked for is done, or is not
# (docs/adr/0012-calls-that-do-not-return.md).
# shellcheck disable=SC2016 # $SELF is for the shell that at-call starts
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/functions.sh"
# shellcheck source=tests/integration/kill.sh
. "$here/kill.sh"

engine=handover
kMaxPause=15 # seconds; the usual 3 are short for a snapshot whose answer does not come
kNoReturn='while kill -0 $SELF; do sleep 0.2; done 2>/dev/null'

boot_with_at_call() {
  [[ -e $kAtCall ]] || fail "there is no $kAtCall"
  boot
}

# assert_swap_done: by itself; nothing is left of the call that did not return.
assert_swap_done() {
  await_swap
  assert_done "$from" "$to"
  assert_guest_after 'done'
  assert_put_away 'done'
}

test_made_while_the_target_gets_its_data() {
  start_swap_with depth after "$kNoReturn"
  assert_swap_done
}

test_snapshot_made() {
  start_swap_with snapshot after "$kNoReturn"
  assert_swap_done
}

test_flattened() {
  start_swap_with flatten after "$kNoReturn"
  assert_swap_done
}

test_snapshot_removed() {
  start_swap_with unsnapshot after "$kNoReturn"
  assert_swap_done
}

test_snapshot_not_made() {
  start_swap_with snapshot before "$kNoReturn"
  await_swap
  assert_exit 4
  assert_report '.state == "undone" and .guest_on == "source"'
  assert_guest_after undone
  assert_put_away undone
}

test_cancel_is_heard() {
  start_swap_with depth before "$kNoReturn"
  poolshift cancel "$job"
  assert_exit 0
  await_swap
  assert_exit 5
  assert_report '.state == "held" and .guest_on == "target" and .phase == "held_on_target"'
  assert_recovered 'done'
  assert_put_away 'done'
}

# It cannot be cancelled any more, only left.
test_leave_is_heard() {
  start_swap_with unsnapshot before "$kNoReturn"
  kill -INT "$swap_pid"
  until_true 10 grep -q cancelling "$T/swap.err"
  kill -INT "$swap_pid"
  await_swap
  assert_exit 5
  assert_report '.state == "held" and .phase == "retire"'
  assert_recovered 'done'
  assert_put_away 'done'
}

run_tests boot_with_at_call
