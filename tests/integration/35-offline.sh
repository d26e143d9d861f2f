#!/bin/bash
# The disk of a domain that is shut off: moved without a guest. Somebody starts the domain, or kills poolshift, exactly
# between two steps of the switch (tests/preload/at_call.cpp), or while the target gets its data.
# shellcheck disable=SC2016 # $SELF is for the shell that at-call starts
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/functions.sh"
# shellcheck source=tests/integration/kill.sh
. "$here/kill.sh"

engine=handover

boot_and_shut_off() {
  [[ -e $kAtCall ]] || fail "there is no $kAtCall"
  # The watch of a client that was killed ends sooner than after the usual 30 s: watches that are made from now on.
  at_end ceph_admin tell 'osd.*' config set osd_client_watch_timeout 30
  ceph_admin tell 'osd.*' config set osd_client_watch_timeout 12
  boot
  wait_for_writes "$web" vda 50
  shut_off
}

shut_off() {
  virsh destroy "$web"
  until_true 10 qemu_is_gone
  until_true 40 has_watchers "$(disk_image "$web" vda)" 0
}

# assert_off STATE: the domain is off and names the image of this end, which nobody has open.
assert_off() {
  local image=$from
  [[ $1 != 'done' ]] || image=$to
  assert_equal "$(state_of_domain "$web")" 'shut off' "the state of the domain"
  assert_equal "$(disk_image "$web" vda --inactive)" "$image" "the disk of the domain"
  until_true 40 has_watchers "$image" 0 || fail "$image is open"
  assert_nothing_left "$web" vda
  assert_data "$web" vda "$image"
}

# assert_starts STATE: what its guest wrote is there, it writes on, and is off again.
assert_starts() {
  virsh start "$web"
  assert_guest_after "$1"
  shut_off
}

assert_ended() {
  assert_off "$1"
  assert_put_away "$1"
  assert_starts "$1"
}

# --- undisturbed -----------------------------------------------------------------------------------------------------

test_created_flattened_source_to_trash() {
  local id
  new_name
  id=$(image_id "$from")
  swap "$web" vda "$to" --create --hydrate flatten --source trash
  assert_done "$from" "$to"
  assert_report '.offline and .hydration.method == "flatten"'
  ! image_exists "$from" || fail "the source is still there"
  assert_json <(trash_of "${from%/*}") '[.[] | select(.id == $id)] | length == 1' --arg id "$id"
  assert_off 'done'
  assert_starts 'done'
  empty_trash "${from%/*}"
}

test_in_words() {
  new_name
  poolshift check --domain "$web" --disk vda --to "$to" --create
  assert_exit 0
  grep -q 'the domain is shut off' "$T/out" || fail "the plan does not say why it is a handover: $(<"$T/out")"
  poolshift swap --domain "$web" --disk vda --to "$to" --create
  assert_exit 0
  grep -q 'the guest was off' "$T/out" || fail "it does not say that the guest was off: $(<"$T/out")"
  assert_off 'done'
}

# --- refused ---------------------------------------------------------------------------------------------------------

test_refused() {
  new_name
  unchanged_by swap "$web" vda "$to" --create --engine mirror
  assert_refused offline "'$web' is shut off"
  virsh start "$web"
  wait_for_writes "$web" vda 20
  virsh managedsave "$web"
  unchanged_by swap "$web" vda "$to" --create
  assert_refused saved_state 'saved state'
  virsh start "$web"
  wait_for_writes "$web" vda 20
  # Its watch outlives it; that of the client which could still write is not to be told from it.
  kill -KILL "$(guest pid "$web")"
  until_true 10 qemu_is_gone
  swap "$web" vda "$to" --create
  assert_refused source_watchers 'expected none: the domain is shut off'
  until_true 40 has_watchers "$from" 0
  swap "$web" vda "$to" --create
  assert_done "$from" "$to"
  assert_off 'done'
}

# --- poolshift dies --------------------------------------------------------------------------------------------------

# assert_recovered_off STATE
assert_recovered_off() {
  local guest_on=source
  [[ $1 != 'done' ]] || guest_on=target
  recover_all
  assert_exit 0
  assert_report '.jobs | length == 1 and .[0].job == $job and .[0].state == $state and .[0].guest_on == $guest_on' \
    --arg job "$job" --arg state "$1" --arg guest_on "$guest_on"
}

# kill_at STEP before|after STATE: recover brings it there.
kill_at() {
  start_swap_with "$1" "$2" 'kill -KILL $SELF'
  kill_swap
  assert_recovered_off "$3"
  assert_ended "$3"
}

test_killed_before_definition() { kill_at definition before undone; }
test_killed_after_definition() { kill_at definition after undone; }
test_killed_after_snapshot() { kill_at snapshot after undone; }
test_killed_after_clone() { kill_at clone after undone; }
test_killed_before_rename() { kill_at rename before undone; }
test_killed_after_rename() { kill_at rename after 'done'; }

# kill_and_start_at STEP before|after STATE: the domain cannot be started before recover has been.
kill_and_start_at() {
  start_swap_with "$1" "$2" 'kill -KILL $SELF'
  kill_swap
  ! virsh start "$web" || fail "a domain was started whose target is not there"
  assert_equal "$(state_of_domain "$web")" 'shut off' "the state of the domain"
  assert_recovered_off "$3"
  assert_ended "$3"
}

test_killed_after_definition_and_started() { kill_and_start_at definition after undone; }
test_killed_before_rename_and_started() { kill_and_start_at rename before undone; }

# The guest runs while recover is at work.
test_killed_before_definition_and_started() {
  start_swap_with definition before 'kill -KILL $SELF'
  kill_swap
  virsh start "$web"
  wait_for_writes "$web" vda 20
  assert_recovered undone
  assert_put_away undone
  shut_off
}
test_killed_after_rename_and_started() {
  start_swap_with rename after 'kill -KILL $SELF'
  kill_swap
  virsh start "$web"
  wait_for_writes "$web" vda 20
  assert_recovered 'done'
  assert_put_away 'done'
  shut_off
}

# --- the domain is started -------------------------------------------------------------------------------------------

kStart="virsh --quiet --connect '$STACK_LIBVIRT_URI' start '$web'"

# start_at STEP before|after: by somebody, while the swap waits; in $T/started what came of it.
start_at() {
  start_swap_with "$1" "$2" "$kStart >'$T/start.out' 2>&1; echo \$? >'$T/started'"
  await_swap
}

# The guest has the source before the definition names the target: it wins.
test_started_before_definition() {
  start_at definition before
  assert_equal "$(<"$T/started")" 0 "exit code of virsh start"
  assert_exit 4
  assert_report '.state == "undone" and .guest_on == "source" and (.error.message | test("was started"))'
  assert_guest_after undone
  assert_put_away undone
  shut_off
}

# refused_at STEP before|after: the start waits, that is, is to be repeated; the swap goes on.
refused_at() {
  start_at "$1" "$2"
  assert_equal "$(<"$T/started")" 1 "exit code of virsh start"
  grep -q 'No such file or directory' "$T/start.out" || fail "virsh says: $(<"$T/start.out")"
  assert_done "$from" "$to"
  assert_ended 'done'
}

test_started_after_definition() { refused_at definition after; }
test_started_after_clone() { refused_at clone after; }
test_started_before_rename() { refused_at rename before; }

test_started_after_rename() {
  start_at rename after
  assert_equal "$(<"$T/started")" 0 "exit code of virsh start"
  assert_done "$from" "$to"
  assert_guest_after 'done'
  assert_put_away 'done'
  shut_off
}

# hydrate_under_a_guest OPTIONS...: that is started while the target gets its data.
hydrate_under_a_guest() {
  new_target
  to_id=$(image_id "$to")
  remember_jobs
  start_swap "$web" vda "$to" "$@"
  wait_for_job
  wait_for_phase hydrate || fail "the swap did not come to hydrate: $(<"$T/swap.err")"
  virsh start "$web"
  await_swap
  assert_done "$from" "$to"
  assert_guest_after 'done'
  assert_put_away 'done'
  shut_off
}

test_started_while_the_osds_copy() { hydrate_under_a_guest --bandwidth 16M; }
test_started_while_it_is_flattened() { hydrate_under_a_guest --hydrate flatten; }

test_started_and_stopped_and_killed_while_the_osds_copy() {
  new_target
  to_id=$(image_id "$to")
  remember_jobs
  start_swap "$web" vda "$to" --bandwidth 8M
  wait_for_job
  until_true 60 copied_some $((8 * MiB))
  virsh start "$web"
  wait_for_writes "$web" vda 20
  kill_swap
  wait_for_writes "$web" vda 20
  virsh destroy "$web"
  until_true 10 qemu_is_gone
  poolshift set "$job" --bandwidth 0
  assert_recovered_off 'done'
  assert_ended 'done'
}

# --- others ----------------------------------------------------------------------------------------------------------

test_cancelled_before_the_switch() {
  start_swap_with clone after "for journal in '$S'/jobs/*.journal; do
      id=\$(basename \"\$journal\" .journal)
      [ -e '$T/known/'\"\$id.journal\" ] || '$kPoolshift' cancel \"\$id\" ${kAccess[*]}
    done"
  await_swap
  assert_exit 6
  assert_report '.state == "cancelled" and .guest_on == "source"'
  assert_ended undone
}

test_cancelled_while_the_target_gets_its_data() {
  new_target
  to_id=$(image_id "$to")
  remember_jobs
  start_swap "$web" vda "$to" --bandwidth 8M
  wait_for_job
  until_true 60 copied_some
  poolshift cancel "$job"
  await_swap
  assert_exit 5
  assert_report '.state == "held" and .phase == "held_on_target" and .guest_on == "target"'
  virsh start "$web"
  wait_for_writes "$web" vda 20
  poolshift set "$job" --bandwidth 0
  assert_recovered 'done'
  assert_put_away 'done'
  shut_off
}

# Nobody may guess what an image is that took the name meanwhile, nor what the domain did with it.
test_somebody_takes_the_targets_name() {
  export to
  start_swap_with definition after "rbd -c '$STACK_CEPH_CONF' create --size 256M \$to"
  await_swap
  assert_exit 5
  assert_report '.state == "held" and .phase == "held_unknown" and .guest_on == "unknown"'
  poolshift recover "$job" --json
  assert_exit 5
  rbd_admin rm "$to"
  assert_recovered_off undone
  assert_ended undone
}

test_undefined_while_the_target_gets_its_data() {
  local xml
  new_target
  remember_jobs
  xml=$T/domain.xml
  start_swap "$web" vda "$to" --bandwidth 8M
  wait_for_job
  until_true 60 copied_some
  virsh dumpxml --inactive --security-info "$web" >"$xml"
  virsh undefine "$web"
  poolshift set "$job" --bandwidth 0
  await_swap
  assert_exit 5
  assert_report '.phase == "held_on_target" and .guest_on == "target"'
  virsh define "$xml"
  assert_recovered_off 'done'
  assert_off 'done'
  assert_starts 'done'
}

# The last: the disk is larger afterwards. All of the definition but the image's name stays as it is.
test_larger_target_that_exists() {
  new_name
  rbd_admin create --size 512M "$to"
  rbd_admin image-meta set "$to" label kept
  to_id=$(image_id "$to")
  virsh dumpxml --inactive --security-info "$web" | sed "s#'$from'#IMAGE#" >"$T/before.xml"
  swap "$web" vda "$to" --engine auto
  assert_done "$from" "$to"
  assert_report '.offline and .bytes.virtual == 512 * 1048576 and .seconds.pause == 0'
  job=$(jq -r .job "$T/report.json")
  virsh dumpxml --inactive --security-info "$web" | sed "s#'$to'#IMAGE#" >"$T/after.xml"
  diff -u "$T/before.xml" "$T/after.xml" || fail "more than the image was changed in the definition"
  grep -q IMAGE "$T/after.xml" || fail "the definition does not name the target"
  assert_equal "$(image_size "$to")" $((512 * MiB)) "size of the target"
  assert_equal "$(rbd_admin image-meta get "$to" label)" kept "metadata of the target"
  image_exists "$from" || fail "the source is not kept"
  assert_ended 'done'
}

run_tests boot_and_shut_off
