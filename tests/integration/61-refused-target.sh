#!/bin/bash
# What is refused because of the target image or its pool. A refused request changes nothing.
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/functions.sh"

web=$(name web)
source=volumes-hdd/source-$kFileTag
target=volumes-ssd/target-$kFileTag # which is all right

boot() {
  new_image "$source" 128M
  new_image "$target" 128M
  # Something in the pool, to be over its quota with.
  new_image "volumes-ssd/ballast-$kFileTag" 16M
  rbd_admin bench --io-type write --io-size 1M --io-total 8M "volumes-ssd/ballast-$kFileTag"
  start_guest "$web" --disk "vda=$source" --workload vda=mode=random,rate=20,span=16M,fill=16M --wait-filled
}

# refused CHECK REGEX TARGET SWAP-OPTIONS...
refused() {
  local check=$1 found=$2 to=$3
  shift 3
  unchanged_by swap "$web" vda "$to" "$@"
  assert_refused "$check" "$found"
}

accepted() {
  poolshift check --json --domain "$web" --disk vda --to "$target"
  assert_exit 0
}

other() { echo "volumes-ssd/other-$kFileTag"; }

test_smaller_by_one_byte() {
  new_image "$(other)" $((128 * MiB - 1))B
  refused target_size "$((128 * MiB - 1)) bytes" "$(other)"
}

test_not_empty_by_one_block() {
  new_image "$(other)" 128M
  rbd_admin bench --io-type write --io-size 4K --io-total 4K "$(other)"
  refused target_empty 'holds [0-9]+ bytes' "$(other)"
}

test_watched() {
  mkfifo "$T/stdin"
  exec {watch_stdin}<>"$T/stdin"
  rbd -c "$STACK_CEPH_CONF" watch "$target" <&"$watch_stdin" &
  at_end end_watch $!
  until_true 20 has_watchers "$target" 1
  refused target_watchers 'open in 1 client' "$target"
}

# It ends by a key; killed, it would leave its watch for 30 s.
end_watch() {
  echo >&"$watch_stdin"
  wait "$1"
}

test_locked() {
  rbd_admin lock add "$target" mine
  at_end drop_locks
  refused target_locks 'locked by' "$target"
}

drop_locks() {
  local id locker
  while read -r id locker; do rbd_admin lock rm "$target" "$id" "$locker"; done < <(
    rbd_admin lock ls --format json "$target" | jq -r '.[] | "\(.id) \(.locker)"'
  )
}

test_missing_without_create() {
  refused target 'does not exist' "$(other)"
  assert_report '.error.advice | test("--create")'
}

test_existing_with_create() { refused target 'exists, and --create' "$target" --create; }

test_the_source_itself() { refused target 'is the source' "$source"; }

test_snapshot_on_it() {
  at_end rbd_admin snap rm "$target@one"
  rbd_admin snap create "$target@one"
  refused target_state 'has snapshots' "$target"
}

test_clone() {
  new_image "$(other)" 128M
  rbd_admin snap create "$(other)@base"
  at_end drop_image "volumes-ssd/clone-$kFileTag"
  rbd_admin clone --rbd-default-clone-format 2 "$(other)@base" "volumes-ssd/clone-$kFileTag"
  refused target_state 'is a clone' "volumes-ssd/clone-$kFileTag"
}

test_features_that_cannot_be_kept() {
  new_image "$(other)" 128M --image-feature layering,exclusive-lock,journaling
  refused target_features 'features' "$(other)"
}

test_tagged_by_another_job() {
  at_end rbd_admin image-meta rm "$target" poolshift.job
  rbd_admin image-meta set "$target" poolshift.job 0123456789ab
  refused target_state "belongs to job '0123456789ab'" "$target"
}

test_pool_that_does_not_exist() { refused target_pool 'volumes-nowhere' volumes-nowhere/x --create; }

# The manager knows nothing of a pool that was made just now.
has_statistics() { ceph_admin df --format json | jq -e --arg pool "$1" 'any(.pools[]; .name == $pool)'; }

test_pool_without_application() {
  at_end ceph_admin osd pool rm volumes-plain volumes-plain --yes-i-really-really-mean-it
  ceph_admin osd pool create volumes-plain 1 1 replicated
  until_true 30 has_statistics volumes-plain
  refused target_pool "no application 'rbd'" volumes-plain/x --create
}

test_erasure_coded_pool() {
  at_end ceph_admin osd erasure-code-profile rm two-and-one
  at_end ceph_admin osd pool rm volumes-ec volumes-ec --yes-i-really-really-mean-it
  ceph_admin osd erasure-code-profile set two-and-one k=2 m=1 crush-failure-domain=osd
  ceph_admin osd pool create volumes-ec 1 1 erasure two-and-one
  until_true 30 has_statistics volumes-ec
  ceph_admin osd pool application enable volumes-ec rbd
  refused target_pool 'erasure-coded' volumes-ec/x --create
}

# --- room ------------------------------------------------------------------------------------------------------------

pool_has_flag() {
  ceph_admin osd dump --format json | jq -e --arg pool "$1" --arg flag "$2" '.pools[] | select(.pool_name == $pool) |
    .flags_names | split(",") | index($flag) != null'
}
no_pool_has_flag() {
  ! ceph_admin osd dump --format json | jq -e --arg flag "$1" '[.pools[].flags_names | split(",")[]] | index($flag) != null'
}

counted_bytes() { ceph_admin osd pool get-quota volumes-ssd --format json | jq .current_num_bytes; }
objects() { ceph_admin df --format json | jq '.pools[] | select(.name == "volumes-ssd").stats.objects'; }
set_quota() { ceph_admin osd pool set-quota volumes-ssd "$1" "$2"; }
drop_quotas() {
  set_quota max_bytes 0
  set_quota max_objects 0
  until_true 30 no_pool_has_flag full
}
pool_holds_something() { (($(counted_bytes) > MiB && $(objects) > 3)); }

test_over_its_quota_in_bytes() {
  until_true 30 pool_holds_something
  at_end drop_quotas
  set_quota max_bytes $MiB
  until_true 30 pool_has_flag volumes-ssd full
  refused target_pool_flags "flag 'full'" "$target"
  assert_refused quota_bytes "of $MiB bytes that its quota allows"
}

test_over_its_quota_in_objects() {
  until_true 30 pool_holds_something
  at_end drop_quotas
  set_quota max_objects 2
  until_true 30 pool_has_flag volumes-ssd full
  refused target_pool_flags "flag 'full'" "$target"
  assert_refused quota_objects 'of 2 objects that its quota allows'
}

# Not over it yet, but the swap would be.
test_quota_in_bytes_too_small() {
  at_end drop_quotas
  set_quota max_bytes $(($(counted_bytes) + 60 * MiB))
  refused quota_bytes 'left of its quota' "$target"
}

test_quota_in_objects_too_small() {
  at_end drop_quotas
  set_quota max_objects $(($(objects) + 5))
  refused quota_objects 'left of its quota' "$target"
}

# Enough for the data, not for a copy that is thick meanwhile (the disk has no discard='unmap').
test_quota_too_small_while_copying() {
  at_end drop_quotas
  set_quota max_bytes $(($(counted_bytes) + 100 * MiB))
  refused room_while_copying 'the copy may take' "$target"
}

max_avail_is_little() { (($(ceph_admin df --format json | jq '.pools[] | select(.name == "volumes-ssd").stats.max_avail') < 64 * MiB)); }
max_avail_is_much() { ! max_avail_is_little; }

restore_ratios() {
  ceph_admin osd set-full-ratio 0.95
  ceph_admin osd set-backfillfull-ratio 0.90
  ceph_admin osd set-nearfull-ratio 0.85
  local flag
  for flag in full backfillfull nearfull; do until_true 60 no_pool_has_flag $flag; done
  until_true 60 max_avail_is_much
}

# A full ratio below the others sets no flag, but leaves no room.
test_no_room() {
  at_end restore_ratios
  ceph_admin osd set-full-ratio 0.0001
  until_true 60 max_avail_is_little
  refused room 'room for [0-9]+ bytes' "$target"
}

test_nearly_full() {
  at_end restore_ratios
  ceph_admin osd set-nearfull-ratio 0.00001
  until_true 60 pool_has_flag volumes-ssd nearfull
  refused target_pool_flags "flag 'nearfull'" "$target"
}

# The OSDs themselves: the guest's writes wait meanwhile.
test_full() {
  at_end restore_ratios
  ceph_admin osd set-nearfull-ratio 0.00001
  ceph_admin osd set-backfillfull-ratio 0.00002
  ceph_admin osd set-full-ratio 0.00003
  until_true 60 pool_has_flag volumes-ssd full
  refused target_pool_flags "flag 'full'" "$target"
}

# All of that is over: the same request is right, and the guest has written through all of it.
test_afterwards_it_is_accepted() {
  accepted
  wait_for_writes "$web" vda 5
  assert_data "$web" vda "$source"
}

run_tests boot
