#!/bin/bash
# Whole swaps of guests that write without pause.
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/functions.sh"

busy=mode=random,rate=300,span=64M,fill=64M

# wrote_during GUEST DISK: the guest's writes that returned between the begin and the end of the reported swap.
wrote_during() {
  local from to
  from=$(jq '.started_wall_ms * 1000' "$T/report.json")
  to=$(jq '.changed_wall_ms * 1000' "$T/report.json")
  guest_check --stats-only --disk "$2" --log "$STACK_DIR/guests/$1/serial.log" \
    --host-from-us "$from" --host-to-us "$to" | jq .statistics.writes
}

# A pre-existing, empty target; then back to one that is created. With a report, and with progress as JSON.
test_busy_guest_there_and_back() {
  local web there=volumes-ssd/there-$kFileTag back=volumes-hdd/back-$kFileTag first=volumes-hdd/first-$kFileTag
  web=$(name web)
  new_image "$first" 512M
  new_image "$there" 512M
  at_end drop_image "$back"
  rbd_admin image-meta set "$there" label kept
  local id
  id=$(image_id "$there")
  start_guest "$web" --disk "vda=$first,discard=unmap" --workload "vda=$busy" --wait-filled
  wait_for_writes "$web" vda 100

  swap "$web" vda "$there" --bandwidth 40M
  assert_done "$first" "$there"
  assert_report '.bytes.virtual == 512 * 1048576 and .convergence == "none needed"'
  assert_on_target "$web" vda "$first" "$there"
  [[ $engine == handover ]] || assert_equal "$(image_id "$there")" "$id" "id of the target"
  assert_equal "$(rbd_admin image-meta get "$there" label)" kept "metadata of the target"
  assert_equal "$(state_of_domain "$web")" running "state of the domain"
  (($(wrote_during "$web" vda) > 10)) || fail "the guest wrote only $(wrote_during "$web" vda) blocks during the swap"
  wait_for_writes "$web" vda 100
  assert_data "$web" vda "$there"

  poolshift swap --domain "$web" --disk vda --to "$back" --create --engine "$engine" --progress json --json
  assert_done "$there" "$back"
  jq -e . "$T/out" >/dev/null || fail "not every line on stdout is JSON"
  head -n -1 "$T/out" | jq -es 'length > 1 and all(.schema == 1 and .running and (.guest_on | IN("source", "target", "unknown")))' \
    >"$T/dump" || fail "progress is not as it should be: $(head -n 3 "$T/out")"
  head -n -1 "$T/out" | jq -es '[.[] | select((.phase | IN("copy", "hydrate")) and .progress != null).progress] |
    length > 0 and all(.done_bytes <= .total_bytes)' >"$T/dump" || fail "no progress of the copy: $(head -n 5 "$T/out")"
  assert_on_target "$web" vda "$there" "$back"
  wait_for_writes "$web" vda 100
  guest stop "$web"
  assert_data "$web" vda "$back"
}

# By UUID, with the source named, the source to the trash; then the guest is started anew from its definition.
test_by_uuid_source_to_trash_and_restart() {
  local web from=volumes-hdd/uuid-$kFileTag to=volumes-ssd/uuid-$kFileTag
  web=$(name web)
  new_image "$from" 256M
  at_end drop_image "$to"
  at_end empty_trash volumes-hdd
  start_guest "$web" --disk "vda=$from" --workload "vda=$busy" --wait-filled
  local id
  id=$(image_id "$from")
  swap "$(virsh domuuid "$web")" vda "$to" --create --from "$from" --source trash
  assert_done "$from" "$to"
  ! image_exists "$from" || fail "the source is still there"
  assert_json <(trash_of volumes-hdd) '[.[] | select(.id == $id)] | length == 1' --arg id "$id"
  assert_on_target "$web" vda "$from" "$to"
  wait_for_writes "$web" vda 50
  virsh destroy "$web"
  assert_data "$web" vda "$to"
  virsh start "$web"
  wait_for_writes "$web" vda 50
  assert_data "$web" vda "$to"
  assert_json "$T/data.json" '.log.boots == 2'
}

test_transient_domain() {
  local web from=volumes-hdd/transient-$kFileTag to=volumes-ssd/transient-$kFileTag
  web=$(name web)
  new_image "$from" 256M
  at_end drop_image "$to"
  start_guest "$web" --transient --disk "vda=$from,discard=unmap" --workload "vda=$busy" --wait-filled
  swap "$web" vda "$to" --create
  assert_done "$from" "$to"
  [[ $(virsh dominfo "$web") == *Persistent:*no* ]] || fail "the domain is persistent now"
  assert_on_target "$web" vda "$from" "$to"
  wait_for_writes "$web" vda 100
  assert_data "$web" vda "$to"
}

# It stays paused: nothing of ours may resume it.
test_paused_domain() {
  local web from=volumes-hdd/paused-$kFileTag to=volumes-ssd/paused-$kFileTag seen
  web=$(name web)
  new_image "$from" 256M
  at_end drop_image "$to"
  start_guest "$web" --disk "vda=$from,discard=unmap" --workload "vda=$busy" --wait-filled
  wait_for_writes "$web" vda 20
  virsh suspend "$web"
  seen=$(acknowledged "$web" vda)
  swap "$web" vda "$to" --create
  assert_done "$from" "$to"
  assert_equal "$(state_of_domain "$web")" paused "state of the domain"
  assert_equal "$(acknowledged "$web" vda)" "$seen" "writes of a paused guest"
  assert_on_target "$web" vda "$from" "$to"
  assert_data "$web" vda "$to"
  virsh resume "$web"
  wait_for_writes "$web" vda 100
  assert_data "$web" vda "$to"
}

# Each by a process of its own, with one state folder.
test_two_disks_of_one_guest_at_once() {
  local web disk first second status_a=0
  web=$(name web)
  for disk in vda vdb; do
    new_image "volumes-hdd/two-$disk-$kFileTag" 256M
    at_end drop_image "volumes-ssd/two-$disk-$kFileTag"
  done
  start_guest "$web" --disk "vda=volumes-hdd/two-vda-$kFileTag,discard=unmap" \
    --disk "vdb=volumes-hdd/two-vdb-$kFileTag,discard=unmap" \
    --workload "vda=mode=random,rate=100,span=64M,fill=64M" --workload "vdb=mode=random,rate=100,span=64M,fill=64M" \
    --wait-filled
  remember_jobs
  start_swap "$web" vda "volumes-ssd/two-vda-$kFileTag" --create --bandwidth 20M
  wait_for_job
  first=$swap_pid
  mv "$T/swap.out" "$T/vda.out"
  start_swap "$web" vdb "volumes-ssd/two-vdb-$kFileTag" --create --bandwidth 20M
  second=$swap_pid
  poolshift status --json
  wait "$first" || status_a=$?
  swap_pid=$second
  await_swap
  assert_done "volumes-hdd/two-vdb-$kFileTag" "volumes-ssd/two-vdb-$kFileTag"
  status=$status_a
  tail -n 1 "$T/vda.out" >"$T/report.json"
  assert_done "volumes-hdd/two-vda-$kFileTag" "volumes-ssd/two-vda-$kFileTag"
  for disk in vda vdb; do
    assert_on_target "$web" $disk "volumes-hdd/two-$disk-$kFileTag" "volumes-ssd/two-$disk-$kFileTag"
    wait_for_writes "$web" $disk 50
    assert_data "$web" $disk "volumes-ssd/two-$disk-$kFileTag"
  done
}

# What a person sees: plain lines when stdout is no terminal, a bar when it is.
test_words_for_people() {
  local web from=volumes-hdd/words-$kFileTag to=volumes-ssd/words-$kFileTag back=volumes-hdd/words-back-$kFileTag
  requires script
  web=$(name web)
  new_image "$from" 256M
  at_end drop_image "$to"
  at_end drop_image "$back"
  start_guest "$web" --disk "vda=$from,discard=unmap" --workload "vda=mode=random,rate=20,span=8M,fill=32M" --wait-filled
  poolshift swap --domain "$web" --disk vda --to "$to" --create --engine "$engine" --bandwidth 10M
  assert_exit 0
  grep -Eq '^(copy|hydrate) [0-9]+ %.*MB/s' "$T/out" || fail "no plain lines with per cent and MB/s: $(<"$T/out")"
  grep -q "^done: disk vda of $web: $from -> $to" "$T/out" || fail "it does not say what was done: $(<"$T/out")"
  ! grep -q $'[\r\e]' "$T/out" || fail "there are control characters in the output of a pipe"
  TERM=xterm script --quiet --return --command \
    "$kPoolshift swap --domain $web --disk vda --to $back --create --engine $engine --bandwidth 20M ${kAccess[*]}" \
    /dev/null </dev/null >"$T/terminal"
  grep -Eq $'\r.*(copy|hydrate).*%.*\\[=*> *\\]' "$T/terminal" || fail "no bar on a terminal: $(cat -v "$T/terminal")"
  grep -Eq 'done: disk vda' "$T/terminal" || fail "no summary on a terminal: $(cat -v "$T/terminal")"
  assert_on_target "$web" vda "$to" "$back"
}

run_tests
