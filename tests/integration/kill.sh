# What the tests that kill have in common: the disk vda of one guest, $web, wanders from image to image.
# shellcheck shell=bash disable=SC2034,SC2154 # what is set here is for the tests

web=$(name web)
kMaxPause=3 # seconds
kAtCall=$POOLSHIFT_BUILD_DIR/tests/preload/at-call.so
kFill=64M # of the disk of 256 MiB; the guest writes to the first 64 MiB

boot() {
  new_image "volumes-hdd/kill-$kFileTag" 256M
  at_end empty_trash volumes-hdd
  at_end empty_trash volumes-ssd
  at_end drop_all
  start_guest "$web" --disk "vda=volumes-hdd/kill-$kFileTag,discard=unmap" \
    --workload "vda=mode=random,rate=100,span=64M,fill=$kFill" --wait-filled
}

# All that tests of this file made.
drop_all() {
  local pool image
  for pool in $STACK_POOLS; do
    for image in $(rbd_admin ls "$pool"); do
      [[ $image != kill*-"$kFileTag" ]] || drop_image "$pool/$image"
    done
  done
}

# new_name: $from is where the disk is; $to is a name in the other pool that no image has.
new_name() {
  from=$(disk_image "$web" vda)
  case $from in
    volumes-hdd/*) to=volumes-ssd ;;
    *) to=volumes-hdd ;;
  esac
  to+=/kill-${T##*/}-$((++targets))-$kFileTag
  at_end drop_unused "$from"
  at_end drop_unused "$to"
}
targets=0

# new_target: and there is an image of that name.
new_target() {
  new_name
  rbd_admin create --size 256M "$to"
}

drop_unused() { [[ $(disk_image "$web" vda) == "$1" ]] || drop_image "$1"; }

# start_swap_with STEP before|after COMMAND: a swap in the background that has COMMAND done at this point.
start_swap_with() {
  new_target
  to_id=$(image_id "$to")
  remember_jobs
  say "$2 $1: $3"
  LD_PRELOAD=$kAtCall POOLSHIFT_AT=$1 POOLSHIFT_AT_WHEN=$2 POOLSHIFT_AT_DO=": >'$T/reached'; $3" \
    start_swap "$web" vda "$to" --max-pause "$kMaxPause" --log-file "$T/poolshift.log"
  wait_for_job
  until_true 60 test -e "$T/reached" || fail "the swap did not come to this point: $(<"$T/swap.err")"
  writes=$(acknowledged "$web" vda)
}

kill_swap() {
  kill -KILL "$swap_pid" 2>/dev/null || true # it may just have ended
  wait "$swap_pid" 2>/dev/null || true
}

# assert_guest_after STATE: after a job that ended so the guest, its disk and its data agree, and it still
# writes.
assert_guest_after() {
  local image=$from
  if [[ $1 == 'done' ]]; then
    image=$to
    assert_on_target "$web" vda "$from" "$to"
  else
    assert_on_source "$web" vda "$from"
  fi
  wait_for_writes "$web" vda 20
  assert_data "$web" vda "$image"
}

# assert_recovered STATE-REGEX: the one open job was taken up and ended so.
assert_recovered() {
  local state guest_on=source
  recover_all
  assert_exit 0
  assert_report '.jobs | length == 1 and .[0].job == $job and (.[0].state | test("^(" + $state + ")$"))' \
    --arg job "$job" --arg state "$1"
  state=$(jq -r '.jobs[0].state' "$T/report.json")
  [[ $state != 'done' ]] || guest_on=target
  assert_report '.jobs[0].guest_on == $guest_on' --arg guest_on "$guest_on"
  assert_guest_after "$state"
  poolshift status "$job" --json
  assert_report '.running == false and .state == $state and .guest_on == $guest_on' \
    --arg state "$state" --arg guest_on "$guest_on"
}

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

qemu_is_gone() { [[ $(state_of_domain "$web") == 'shut off' ]]; }
