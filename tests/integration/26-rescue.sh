#!/bin/bash
# What Cinder's driver-assisted retype does to a running guest: its image is copied, then put into the trash, and the guest
# is not told. `poolshift rescue` brings it to the image that Cinder names.
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/functions.sh"

# retyped_behind_the_guest NAME: the names are those of the caller.
retyped_behind_the_guest() {
  web=$(name "$1") from=volumes-hdd/volume-$1-$kFileTag to=volumes-ssd/volume-$1-$kFileTag
  stale=volumes-ssd/poolshift.stale.${to#*/}
  new_image "$from" 128M
  at_end drop_image "$to"
  at_end drop_image "$stale"
  at_end empty_trash volumes-hdd
  start_guest "$web" --disk "vda=$from,discard=unmap" --workload vda=mode=random,rate=50,span=16M,fill=16M --wait-filled
  rbd_admin cp "$from" "$to"
  rbd_admin image-meta set "$to" ours "Cinder's"
  wait_for_writes "$web" vda 100
  rbd_admin trash mv "$from"
  wait_for_writes "$web" vda 20
}

test_rescue() {
  local web from to stale
  retyped_behind_the_guest "lost-$engine"
  poolshift doctor --json
  assert_exit 5
  assert_report 'any(.findings[]; .name == "image_in_trash" and .result == "fail" and (.found | test($image)))' \
    --arg image "$from"

  unchanged_by poolshift rescue --domain "$web" --disk vda --to "$to" --dry-run --json
  assert_exit 0
  assert_report '.restores != null and .sets_aside == $stale and .creates_target and (.done | not)' --arg stale "$stale"

  poolshift rescue --domain "$web" --disk vda --to "$to" --engine "$engine" --json --progress none
  assert_exit 0
  assert_done "$from" "$to"
  assert_equal "$(used_bytes "$stale")" $((16 * MiB)) "bytes of the copy that was set aside"
  drop_image "$stale"
  ! image_exists "$from" || fail "the source can still be found by its name"
  assert_json <(trash_of volumes-hdd) 'any(.[]; .name == $name)' --arg name "${from#*/}"
  assert_on_target "$web" vda "$from" "$to"
  assert_equal "$(rbd_admin image-meta get "$to" ours)" "Cinder's" "metadata of the target"
  wait_for_writes "$web" vda 20
  assert_data "$web" vda "$to"
  poolshift doctor
  assert_exit 0
}

# An image that a guest uses as it should is none to be rescued, and nothing is touched when that is not clear.
test_nothing_to_rescue() {
  local web from=volumes-hdd/well-$kFileTag to=volumes-ssd/well-$kFileTag
  web=$(name well)
  new_image "$from" 64M
  new_image "$to" 64M
  start_guest "$web" --disk "vda=$from" --workload vda=mode=random,rate=20,span=16M,fill=16M --wait-filled
  unchanged_by poolshift rescue --domain "$web" --disk vda --to "$from" --json
  assert_exit 3
  assert_report '.error.message | test("names .* already")'
  unchanged_by poolshift rescue --domain "$web" --disk vda --to volumes-ssd/none --json
  assert_exit 3
  assert_report '.error.message | test("does not exist")'
}

run_tests
