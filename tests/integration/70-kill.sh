#!/bin/bash
# kill -9 of poolshift in each phase, of libvirtd and of QEMU; then `poolshift recover`.
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/functions.sh"
# shellcheck source=tests/integration/kill.sh
. "$here/kill.sh"

kAttempts=15

# kill_in PHASE STATE-REGEX SWAP-OPTIONS...: phases may be shorter than it takes to see them: tried again until the
# journal says that it was this one.
kill_in() {
  local phase=$1 states=$2 attempt
  shift 2
  for ((attempt = 1; attempt <= kAttempts; attempt++)); do
    new_target
    remember_jobs
    start_swap "$web" vda "$to" "$@"
    wait_for_job
    if wait_for_phase "$phase"; then
      kill_swap
    else
      wait "$swap_pid" || true
    fi
    if [[ $(journal_phase "$S/jobs/$job.journal") == "$phase" ]]; then
      say "killed in phase $phase, attempt $attempt"
      assert_recovered "$states"
      return 0
    fi
    [[ $(journal_phase "$S/jobs/$job.journal") =~ ^(done|undone)$ ]] || assert_recovered 'done|undone'
  done
  skip "phase $phase was too short to be hit in $kAttempts attempts"
}

test_in_prepare() { kill_in prepare undone; }

# The copy has come to every point: at its beginning, in the middle, at its end.
test_in_copy() {
  new_target
  remember_jobs
  start_swap "$web" vda "$to" --bandwidth 16M
  wait_for_job
  until_true 60 copied_some $((8 * MiB))
  kill_swap
  # QEMU goes on with nobody there.
  assert_equal "$(virsh blockjob "$web" vda --raw | sed -n 's/^ *type=//p')" "Block Copy" "block job of the orphan"
  wait_for_writes "$web" vda 20
  poolshift status --json
  assert_report '[.jobs[] | select(.job == $job)] | length == 1 and .[0].state == "held" and .[0].running == false' --arg job "$job"
  poolshift set "$job" --bandwidth 0
  assert_recovered 'done'
}

test_when_the_copy_begins() { kill_in copy 'done|undone'; }

# Ready, and nobody there who pivots.
test_when_the_copy_is_ready() {
  new_target
  remember_jobs
  start_swap "$web" vda "$to" --bandwidth 64M
  wait_for_job
  until_true 60 copied_some
  kill -STOP "$swap_pid"
  until_true 60 copy_is_ready
  kill_swap
  assert_recovered 'done'
}

copy_is_ready() { [[ $(virsh dumpxml "$web") == *"ready='yes'"* ]]; }

# Some of these come before libvirt was asked to switch, some after.
test_in_pivot() {
  for _ in 1 2 3; do kill_in pivot 'done'; done
}

# Asked, but libvirt does not answer before the death.
test_in_pivot_while_libvirt_hangs() {
  local attempt
  at_end kill -CONT "$(libvirtd pid)"
  for ((attempt = 1; attempt <= kAttempts; attempt++)); do
    new_target
    remember_jobs
    start_swap "$web" vda "$to"
    wait_for_job
    if wait_for_phase pivot; then kill -STOP "$(libvirtd pid)"; fi
    sleep 0.3
    kill_swap
    kill -CONT "$(libvirtd pid)"
    if [[ $(journal_phase "$S/jobs/$job.journal") == pivot ]]; then
      assert_recovered 'done'
      return 0
    fi
    [[ $(journal_phase "$S/jobs/$job.journal") =~ ^(done|undone)$ ]] || assert_recovered 'done|undone'
  done
  skip "the pivot was too short to be hit in $kAttempts attempts"
}

test_in_retire() { kill_in retire 'done'; }

test_in_retire_with_source_to_trash() {
  kill_in retire 'done' --source trash
  ! image_exists "$from" || fail "the source is still there"
}

test_in_undo() {
  local attempt
  for ((attempt = 1; attempt <= kAttempts; attempt++)); do
    new_target
    remember_jobs
    start_swap "$web" vda "$to" --bandwidth 4M
    wait_for_job
    until_true 60 copied_some
    poolshift cancel "$job"
    wait_for_phase undo || true
    # Now here, now there in the undo.
    sleep "0.0$((attempt * 3 % 10))"
    kill_swap
    if [[ $(journal_phase "$S/jobs/$job.journal") == undo ]]; then
      assert_recovered cancelled
      assert_equal "$(used_bytes "$to")" 0 "bytes on the target that was given back"
      return 0
    fi
    [[ $(journal_phase "$S/jobs/$job.journal") =~ ^(done|undone)$ ]] || assert_recovered 'cancelled'
  done
  skip "phase undo was too short to be hit in $kAttempts attempts"
}

# A created target is ours to take away.
test_in_prepare_with_created_target() {
  local attempt
  for ((attempt = 1; attempt <= kAttempts; attempt++)); do
    new_name
    remember_jobs
    start_swap "$web" vda "$to" --create
    wait_for_job
    sleep "0.0$((attempt % 10))"
    kill_swap
    if [[ $(journal_phase "$S/jobs/$job.journal") == prepare ]]; then
      assert_recovered undone
      ! image_exists "$to" || fail "the created target is still there"
      return 0
    fi
    [[ $(journal_phase "$S/jobs/$job.journal") =~ ^(done|undone)$ ]] || assert_recovered 'done|undone'
  done
  skip "phase prepare was too short to be hit in $kAttempts attempts"
}

# The swap waits for libvirtd and goes on by itself.
test_libvirtd_in_copy() {
  new_target
  remember_jobs
  start_swap "$web" vda "$to" --bandwidth 16M
  wait_for_job
  until_true 60 copied_some $((4 * MiB))
  at_end libvirtd start
  libvirtd kill
  sleep 2
  kill -0 "$swap_pid" || fail "the swap gave up: $(<"$T/swap.err")"
  libvirtd start
  await_swap
  assert_done "$from" "$to"
  assert_on_target "$web" vda "$from" "$to"
  wait_for_writes "$web" vda 20
  assert_data "$web" vda "$to"
}

test_libvirtd_when_the_copy_is_ready() {
  new_target
  remember_jobs
  start_swap "$web" vda "$to" --bandwidth 64M
  wait_for_job
  until_true 60 copied_some
  kill -STOP "$swap_pid"
  until_true 60 copy_is_ready
  at_end libvirtd start
  libvirtd kill
  kill -CONT "$swap_pid"
  sleep 1
  libvirtd start
  await_swap
  assert_done "$from" "$to"
  assert_on_target "$web" vda "$from" "$to"
  wait_for_writes "$web" vda 20
  assert_data "$web" vda "$to"
}

# Both at once: the copy is ready when they are back.
test_libvirtd_and_poolshift() {
  new_target
  remember_jobs
  start_swap "$web" vda "$to" --bandwidth 64M
  wait_for_job
  until_true 60 copied_some
  at_end libvirtd start
  libvirtd kill
  kill_swap
  sleep 4
  libvirtd start
  assert_recovered 'done'
}

# libvirtd stays away: the job is held, nothing is guessed, and recover goes on with it.
test_libvirtd_stays_away() {
  new_target
  remember_jobs
  start_swap "$web" vda "$to" --bandwidth 16M --patience 3
  wait_for_job
  until_true 60 copied_some
  at_end libvirtd start
  libvirtd kill
  await_swap
  assert_exit 5
  assert_report '.state == "held" and (.guest_on | IN("source", "unknown")) and .error.advice != ""'
  libvirtd start
  poolshift set "$job" --bandwidth 0
  assert_recovered 'done'
}

# The guest is gone in mid-copy: all that it was promised is on the source, where it starts again.
test_qemu_in_copy() {
  new_target
  remember_jobs
  start_swap "$web" vda "$to" --bandwidth 4M
  wait_for_job
  until_true 60 copied_some $((4 * MiB))
  kill -KILL "$(guest pid "$web")"
  await_swap
  assert_exit 4
  assert_report '.state == "undone" and .guest_on == "source" and .error.message != ""'
  until_true 10 qemu_is_gone
  assert_guest_restarts_on_source
}

test_qemu_and_poolshift_in_copy() {
  new_target
  remember_jobs
  start_swap "$web" vda "$to" --bandwidth 4M
  wait_for_job
  until_true 60 copied_some $((4 * MiB))
  kill_swap
  kill -KILL "$(guest pid "$web")"
  until_true 10 qemu_is_gone
  poolshift recover --json
  assert_exit 0
  assert_report '.jobs | length == 1 and .[0].job == $job and .[0].state == "undone"' --arg job "$job"
  assert_guest_restarts_on_source
}

assert_guest_restarts_on_source() {
  assert_equal "$(disk_image "$web" vda --inactive)" "$from" "the disk of the domain"
  assert_data "$web" vda "$from"
  assert_equal "$(used_bytes "$to")" 0 "bytes on the target that was given back"
  unchanged_by poolshift recover --json
  assert_report '.jobs == []'
  virsh start "$web"
  wait_for_writes "$web" vda 20
  assert_on_source "$web" vda "$from"
  assert_data "$web" vda "$from"
}

run_tests boot
