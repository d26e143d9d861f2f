#!/bin/bash
# What only a handover has: the pause, the clone, hydration and its stops, and when it is not taken.
engine=handover
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/functions.sh"

# disk name, what the guest does on it, how its target gets the data
kDisks=(
  'vda mode=idle offload'
  'vdb mode=idle flatten'
  'vdc mode=random,rate=100,span=64M offload'
  'vdd mode=random,rate=100,span=64M flatten'
  'vde mode=sequential,rate=100,span=64M offload'
  'vdf mode=discard,rate=50,span=64M offload'
)
many=$(name many)

boot_many() {
  local line disk workload arguments=()
  for line in "${kDisks[@]}"; do
    read -r disk workload _ <<<"$line"
    new_image "volumes-hdd/many-$disk-$kFileTag" 128M
    new_image "volumes-ssd/many-$disk-$kFileTag" 128M
    arguments+=(--disk "$disk=volumes-hdd/many-$disk-$kFileTag,discard=unmap" --workload "$disk=$workload,fill=64M")
  done
  start_guest "$many" "${arguments[@]}" --wait-filled
}

# same_data IMAGE IMAGE: byte for byte.
same_data() {
  cmp <(rbd_admin export --no-progress "$1" -) <(rbd_admin export --no-progress "$2" -) ||
    fail "$1 and $2 do not hold the same"
}

# assert_handed_over GUEST DISK METHOD: from $from to $to.
assert_handed_over() {
  assert_done "$from" "$to"
  assert_report '.hydration.method == $method' --arg method "$3"
  assert_report '.seconds | .pause > 0 and .snapshot > 0 and .snapshot < .pause'
  assert_on_target "$1" "$2" "$from" "$to"
}

# One disk after the other; before, during and after the swap the guest does what it does, on all of them.
test_workloads() {
  local line disk workload method from to
  boot_many
  for line in "${kDisks[@]}"; do
    read -r disk workload method <<<"$line"
    from=volumes-hdd/many-$disk-$kFileTag to=volumes-ssd/many-$disk-$kFileTag
    swap "$many" "$disk" "$to" --hydrate "$method"
    assert_handed_over "$many" "$disk" "$method"
    assert_equal "$(state_of_domain "$many")" running "state of the domain"
    if [[ $workload == mode=idle ]]; then
      same_data "$from" "$to"
      assert_equal "$(used_bytes "$to")" "$(used_bytes "$from")" "bytes used"
    else
      wait_for_writes "$many" "$disk" 30
    fi
  done
  virsh suspend "$many" # a discard that comes while an image is looked at could not be told from lost data
  for line in "${kDisks[@]}"; do
    read -r disk _ <<<"$line"
    assert_data "$many" "$disk" "volumes-ssd/many-$disk-$kFileTag"
  done
}

# It keeps its name, features, layout and metadata; the empty image that it was is in the trash.
test_target_stays_what_it_was() {
  local from=volumes-hdd/kept-$kFileTag to=volumes-ssd/kept-$kFileTag web before id
  web=$(name kept)
  new_image "$from" 128M
  rbd_admin image-meta set "$from" theirs source
  new_image "$to" 160M --image-feature layering,exclusive-lock
  rbd_admin image-meta set "$to" ours 'a target'
  id=$(image_id "$to")
  before=$(rbd_admin info --format json "$to" | jq -c '[.size, .features, .object_size, .order]')
  start_guest "$web" --disk "vda=$from,discard=unmap" --workload vda=mode=random,rate=50,span=32M,fill=32M --wait-filled
  swap "$web" vda "$to"
  assert_handed_over "$web" vda offload
  assert_equal "$(rbd_admin info --format json "$to" | jq -c '[.size, .features, .object_size, .order]')" "$before" target
  assert_equal "$(rbd_admin image-meta ls --format json "$to" | jq -c .)" '{"ours":"a target"}' "metadata of the target"
  assert_json <(trash_of volumes-ssd) 'any(.[]; .id == $id)' --arg id "$id"
  wait_for_writes "$web" vda 20
  assert_data "$web" vda "$to"
}

# An image that cannot be a parent: refused where a handover was asked for, else moved by the other engine.
test_not_possible() {
  local from=volumes-hdd/plain-$kFileTag to=volumes-ssd/plain-$kFileTag web
  web=$(name plain)
  new_image "$from" 64M --image-feature exclusive-lock
  new_image "$to" 64M
  start_guest "$web" --disk "vda=$from,discard=unmap" --workload vda=mode=random,rate=50,span=16M,fill=16M --wait-filled
  unchanged_by swap "$web" vda "$to"
  assert_refused handover_layering 'cannot be cloned'
  swap "$web" vda "$to" --engine auto
  engine=mirror
  assert_done "$from" "$to"
  assert_report '.engine_reason | test("handover_layering")'
  assert_report 'any(.checks[]; .name == "handover_layering" and .result == "warn")'
  assert_data "$web" vda "$to"
}

# By default a large disk is handed over. When it holds little, its object map is not rebuilt: the flatten tells it.
test_auto() {
  local from=volumes-hdd/auto-$kFileTag to=volumes-ssd/auto-$kFileTag web
  web=$(name auto)
  new_image "$from" 1T
  new_image "$to" 1T
  start_guest "$web" --disk "vda=$from" --workload vda=mode=random,rate=50,span=16M,fill=16M --wait-filled
  unchanged_by swap "$web" vda "$to" --engine auto --dry-run
  assert_exit 0
  assert_report '.plan | .engine == "handover" and .hydration.method == "offload"'
  swap "$web" vda "$to" --engine auto
  assert_handed_over "$web" vda offload
  wait_for_writes "$web" vda 20
  assert_data "$web" vda "$to" --first $((64 * MiB))
}

# A copy that takes no longer than a handover would is left to the other engine.
test_auto_of_a_small_disk() {
  local from=volumes-hdd/little-$kFileTag to=volumes-ssd/little-$kFileTag web
  web=$(name little)
  new_image "$from" 64M
  new_image "$to" 64M
  start_guest "$web" --disk "vda=$from,discard=unmap" --workload vda=mode=random,rate=50,span=16M,fill=16M --wait-filled
  swap "$web" vda "$to" --engine auto
  engine=mirror
  assert_done "$from" "$to"
  assert_report '.engine_reason | test("copied sooner")'
  assert_data "$web" vda "$to"
}

# slow_hydration NAME: returns when some of the data is there. 48 objects, of which the guest writes to four.
slow_hydration() {
  from=volumes-hdd/$1-$kFileTag to=volumes-ssd/$1-$kFileTag
  web=$(name "$1")
  new_image "$from" 256M
  new_image "$to" 256M
  start_guest "$web" --disk "vda=$from,discard=unmap" --workload vda=mode=random,rate=50,span=16M,fill=192M --wait-filled
  remember_jobs
  start_swap "$web" vda "$to" --bandwidth 16M
  wait_for_job
  until_true 60 copied_some $((24 * MiB))
  assert_equal "$(disk_image "$web" vda)" "$to" "the disk of the running domain"
}

recovered_done() {
  recover_all
  assert_exit 0
  assert_report '.jobs | length == 1 and .[0].state == "done" and .[0].guest_on == "target"'
  assert_on_target "$web" vda "$from" "$to"
  wait_for_writes "$web" vda 20
  assert_data "$web" vda "$to"
}

# The guest stays on the target; the rest waits for `recover`.
test_cancelled_while_hydrating() {
  local from to web
  slow_hydration cancelled
  poolshift cancel "$job"
  assert_exit 0
  await_swap
  assert_exit 5
  assert_report '.state == "held" and .guest_on == "target" and .phase == "held_on_target"'
  assert_equal "$(disk_image "$web" vda)" "$to" "the disk of the running domain"
  wait_for_writes "$web" vda 20
  assert_data "$web" vda "$to"
  poolshift set "$job" --bandwidth 0
  assert_exit 3
  recovered_done
}

test_bandwidth_is_kept_and_lifted() {
  local from to web began_s=$SECONDS done_bytes
  slow_hydration limited
  poolshift status "$job" --json
  done_bytes=$(jq .progress.done_bytes "$T/report.json")
  # From the start of the swap on, and one second's worth at the beginning.
  ((done_bytes <= (SECONDS - began_s + 1) * 16 * MiB)) || fail "$done_bytes bytes in $((SECONDS - began_s)) s"
  poolshift set "$job" --bandwidth 0
  assert_exit 0
  await_swap
  assert_handed_over "$web" vda offload
  assert_data "$web" vda "$to"
}

# An OSD dies in the middle and comes back.
test_osd_dies_while_hydrating() {
  local from to web
  slow_hydration osd
  at_end "$tests/stack/osd" "$STACK_DIR" 1 start
  "$tests/stack/osd" "$STACK_DIR" 1 kill
  sleep 3 # while it is away
  "$tests/stack/osd" "$STACK_DIR" 1 start
  await_swap
  [[ $status == 0 ]] || recovered_done
  [[ $status != 0 ]] || assert_on_target "$web" vda "$from" "$to"
  wait_for_writes "$web" vda 20
  assert_data "$web" vda "$to"
}

pool_is_not_full() {
  ceph_admin osd pool ls detail --format json |
    jq -e --arg pool "$1" 'any(.[]; .pool_name == $pool and (.flags_names | test("full") | not))'
}

# Held on the target, with the reason; then there is room again.
test_quota_while_hydrating() {
  local from to web
  at_end ceph_admin osd pool set-quota volumes-ssd max_bytes 0
  slow_hydration quota
  ceph_admin osd pool set-quota volumes-ssd max_bytes 1048576
  await_swap
  assert_exit 5
  assert_report '.state == "held" and .guest_on == "target" and (.error | (.message + .advice) | test("quota|space|full"))'
  ceph_admin osd pool set-quota volumes-ssd max_bytes 0
  until_true 60 pool_is_not_full volumes-ssd
  recovered_done
}

run_tests
