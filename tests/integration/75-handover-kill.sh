#!/bin/bash
# A handover's pause, cut off between any two of its steps (tests/preload/at_call.cpp): poolshift killed or hanging,
# libvirtd, QEMU or the guardian killed. Then its hydration.
# shellcheck disable=SC2016 # $SELF is for the shell that at-call starts
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/functions.sh"
# shellcheck source=tests/integration/kill.sh
. "$here/kill.sh"

engine=handover
kFill=192M # a third of it comes by the guest's own writes
kBound=$((kMaxPause + 2)) # seconds until the guest must run again

# The watch of a client that was killed ends sooner than after the usual 30 s: watches that are made from now on.
boot_with_short_watches() {
  [[ -e $kAtCall ]] || fail "there is no $kAtCall"
  at_end ceph_admin tell 'osd.*' config set osd_client_watch_timeout 30
  ceph_admin tell 'osd.*' config set osd_client_watch_timeout 12
  boot
}

# assert_runs_again SECONDS: seen from libvirt, and the guest writes.
assert_runs_again() {
  local began=${EPOCHREALTIME/[.,]/}
  until_true "$1" guest_runs || fail "the guest is '$(state_of_domain "$web")', $1 s later"
  say "the guest runs after $(((${EPOCHREALTIME/[.,]/} - began) / 1000)) ms"
}
guest_runs() { [[ $(state_of_domain "$web") == running ]] && wrote_more_than "$web" vda $((writes + 20)); }

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

await_end_of_running() {
  await_end "$1"
  assert_guest_after "$state"
  assert_put_away "$state"
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

# --- poolshift hangs -------------------------------------------------------------------------------------------------

# hang_at STEP before|after STATE-REGEX: the guest runs while poolshift still hangs; when that goes on it makes an end.
hang_at() {
  start_swap_with "$1" "$2" 'kill -STOP $SELF'
  assert_runs_again "$kBound"
  # Of a guest that was not suspended yet: poolshift goes on after its time was up.
  until_true "$kBound" grep -q 'letting it run' "$T/poolshift.log"
  [[ $(<"/proc/$swap_pid/stat") == *') T '* ]] || fail "poolshift does not hang"
  kill -CONT "$swap_pid"
  await_end_of_running "$3"
  [[ $state == 'done' ]] || assert_named
}

assert_named() {
  grep -q 'the guardian stepped in' "$T/swap.err" || fail "the guardian is not named as the cause: $(<"$T/swap.err")"
}

test_hang_before_suspend() { hang_at suspend before undone; }
test_hang_after_suspend() { hang_at suspend after undone; }
test_hang_after_clone() { hang_at clone after undone; }
test_hang_before_overlay() { hang_at overlay before undone; }
test_hang_after_copy() { hang_at copy after undone; }
test_hang_before_pivot() { hang_at pivot before undone; }
test_hang_after_pivot() { hang_at pivot after 'done'; }
test_hang_before_resume() { hang_at resume before 'done'; }

# --- libvirtd dies ---------------------------------------------------------------------------------------------------

kBeforeLibvirtd=:

# libvirtd_at STEP before|after STATE-REGEX: the swap waits for it and makes an end; so does the guardian.
libvirtd_at() {
  at_end libvirtd start
  start_swap_with "$1" "$2" "$kBeforeLibvirtd; '$tests/stack/libvirtd' '$STACK_DIR' kill"
  until_true 10 no_libvirtd
  sleep 1
  libvirtd start
  assert_runs_again 10
  await_end_of_running "$3"
}
no_libvirtd() { ! libvirtd pid; }

test_libvirtd_after_suspend() { libvirtd_at suspend after undone; }
test_libvirtd_after_overlay() { libvirtd_at overlay after undone; }
test_libvirtd_before_pivot() { libvirtd_at pivot before undone; }

# While it records the end of a copy, libvirt 9.0 keeps a state on disk that it cannot read (<mirror job=''>): killed
# then, which is not this test, it knows nothing of the running guest when it is back.
test_libvirtd_after_pivot() {
  kBeforeLibvirtd="while grep -q '<mirror' '$STACK_DIR/lv/run/qemu/$web.xml'; do sleep 0.1; done"
  libvirtd_at pivot after 'done'
}

# --- QEMU dies -------------------------------------------------------------------------------------------------------

# qemu_at STEP before|after STATE-REGEX: the definition names one of the two images, where the guest starts again.
qemu_at() {
  start_swap_with "$1" "$2" "kill -KILL $(guest pid "$web")"
  await_end "$3"
  assert_restarts
}

assert_restarts() {
  local image=$from
  [[ $state != 'done' ]] || image=$to
  until_true 10 qemu_is_gone
  assert_equal "$(disk_image "$web" vda --inactive)" "$image" "the disk of the domain"
  assert_data "$web" vda "$image"
  until_true 40 has_watchers "$image" 0
  virsh start "$web"
  assert_guest_after "$state"
  assert_put_away "$state"
}

test_qemu_after_suspend() { qemu_at suspend after undone; }
test_qemu_after_overlay() { qemu_at overlay after undone; }
test_qemu_after_copy() { qemu_at copy after undone; }
test_qemu_before_resume() { qemu_at resume before 'done'; }

# --- the guardian dies -----------------------------------------------------------------------------------------------

# To be run by at-call: the guardian of this poolshift, by what it has inherited.
kKillGuardian='
  for pid in $(pgrep -f "^$POOLSHIFT_GUARDIAN"); do
    ! grep -qzx "SELF=$SELF" /proc/$pid/environ || kill -KILL $pid
  done'

guardian_at() {
  start_swap_with "$1" "$2" "$kKillGuardian"
  assert_runs_again "$kBound"
  await_end_of_running "$3"
  assert_named
}

test_guardian_before_suspend() { guardian_at suspend before undone; }
test_guardian_after_overlay() { guardian_at overlay after undone; }

# Nobody is left: the guest waits for `recover`.
test_guardian_and_poolshift() {
  start_swap_with copy after "$kKillGuardian; kill -KILL \$SELF"
  kill_swap
  sleep "$kBound"
  assert_equal "$(state_of_domain "$web")" paused "the state of a guest that nobody lets run"
  assert_recovered undone
  assert_put_away undone
}

# --- hydration -------------------------------------------------------------------------------------------------------

# start_hydration: the guest is on the target, which gets its data slowly.
start_hydration() {
  new_target
  to_id=$(image_id "$to")
  remember_jobs
  start_swap "$web" vda "$to" --bandwidth 8M
  wait_for_job
  until_true 60 copied_some $((72 * MiB))
  assert_report '.phase == "hydrate"'
}

test_hydration_killed_twice() {
  local recover_pid
  start_hydration
  kill_swap
  wait_for_writes "$web" vda 20
  "$kPoolshift" recover --json "${kAccess[@]}" >"$T/killed-recover" 2>&1 </dev/null &
  recover_pid=$!
  at_end end_process "$recover_pid"
  until_true 60 copied_some $((104 * MiB))
  assert_report '.running'
  kill -KILL "$recover_pid"
  wait "$recover_pid" || true
  assert_equal "$(journal_phase "$S/jobs/$job.journal")" hydrate "the phase in which it was killed"
  poolshift set "$job" --bandwidth 0
  assert_recovered 'done'
  assert_put_away 'done'
}

test_hydration_without_libvirtd() {
  start_hydration
  at_end libvirtd start
  libvirtd kill
  sleep 1
  kill -0 "$swap_pid" || fail "the swap gave up: $(<"$T/swap.err")"
  libvirtd start
  await_end_of_running 'done'
}

# There is no guest that could be disturbed or that could write: its data moves on without it.
test_hydration_without_qemu() {
  start_hydration
  kill -KILL "$(guest pid "$web")"
  await_end 'done'
  assert_restarts
}

run_tests boot_with_short_watches
