#!/bin/bash
# A handover's pause, cut off between any two of its steps (tests/preload/at_call.cpp): poolshift killed or hanging,
# libvirtd, QEMU or the guardian killed. Then its hydration.
# shellcheck disable=SC2016 # $SELF is for the shell that at-call starts
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/functions.sh"
# shellcheck source=tests/integration/kill.sh
. "$here/kill.sh"

engine=handover
kMaxPause=3
kBound=$((kMaxPause + 2)) # seconds until the guest must run again
kAtCall=$POOLSHIFT_BUILD_DIR/tests/preload/at-call.so
[[ -e $kAtCall ]] || fail "there is no $kAtCall"

# start_swap_with STEP before|after COMMAND: a swap in the background that has COMMAND done at this point.
start_swap_with() {
  new_target
  to_id=$(image_id "$to")
  remember_jobs
  say "$2 $1: $3"
  LD_PRELOAD=$kAtCall POOLSHIFT_AT=$1 POOLSHIFT_AT_WHEN=$2 POOLSHIFT_AT_DO=": >'$T/reached'; $3" \
    start_swap "$web" vda "$to" --max-pause "$kMaxPause"
  wait_for_job
  until_true 60 test -e "$T/reached" || fail "the swap did not come to this point: $(<"$T/swap.err")"
  writes=$(acknowledged "$web" vda)
}

# assert_runs_again SECONDS: seen from libvirt, and the guest writes.
assert_runs_again() {
  local began=${EPOCHREALTIME/[.,]/}
  until_true "$1" guest_runs || fail "the guest is '$(state_of_domain "$web")', $1 s later"
  say "the guest runs after $(((${EPOCHREALTIME/[.,]/} - began) / 1000)) ms"
}
guest_runs() { [[ $(state_of_domain "$web") == running ]] && wrote_more_than "$web" vda $((writes + 20)); }

# assert_put_away STATE: what was the target's is where it belongs; nothing else is in the trash.
assert_put_away() {
  local pool trash=''
  for pool in $STACK_POOLS; do trash+=$(trash_of "$pool" | jq -r --arg pool "$pool" '.[] | "\($pool)/\(.name)"'); done
  if [[ $1 == 'done' ]]; then
    assert_equal "$trash" "${to%/*}/poolshift.$job" "the trash"
    empty_trash "${to%/*}"
  else
    assert_equal "$trash" '' "the trash"
    assert_equal "$(image_id "$to")" "$to_id" "the image that has the target's name"
    assert_equal "$(used_bytes "$to")" 0 "bytes on the target that was given back"
  fi
}

# await_end STATE-REGEX: the swap ends so by itself; its report is right and there is nothing to recover. The state is
# in $state.
await_end() {
  await_swap
  assert_report '.state | test("^(" + $state + ")$")' --arg state "$1"
  state=$(jq -r .state "$T/report.json")
  if [[ $state == 'done' ]]; then
    assert_done "$from" "$to"
  else
    assert_exit 4
    assert_report '.state == "undone" and .guest_on == "source" and .error.message != "" and .error.advice != ""'
  fi
  poolshift recover --json
  assert_exit 0
  assert_report '.jobs == []'
}

# --- poolshift dies --------------------------------------------------------------------------------------------------

# kill_at STEP before|after STATE-REGEX: without poolshift the guest runs again; `recover` does the rest.
kill_at() {
  start_swap_with "$1" "$2" 'kill -KILL $SELF'
  assert_runs_again "$kBound"
  kill_swap
  assert_recovered "$3"
  assert_put_away "$(jq -r .state "$T/report.json")"
}

test_before_suspend() { kill_at suspend before undone; }
test_after_suspend() { kill_at suspend after undone; }
test_after_snapshot() { kill_at snapshot after undone; }
test_after_clone() { kill_at clone after undone; }
test_after_overlay() { kill_at overlay after undone; }
test_after_copy() { kill_at copy after undone; }
test_before_pivot() { kill_at pivot before undone; }
test_after_pivot() { kill_at pivot after 'done'; }
test_before_resume() { kill_at resume before 'done'; }
test_after_resume() { kill_at resume after 'done'; }

run_tests boot
