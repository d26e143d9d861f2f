#!/bin/bash
# What can be done to a swap while it runs: limit, status, cancel, Ctrl-C; and what it does by itself to converge.
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/functions.sh"

web=$(name web)
first=volumes-hdd/control-$kFileTag
limit=volumes-ssd/limit-$kFileTag
orphan=volumes-hdd/orphan-$kFileTag

boot() {
  new_image "$first" 512M
  at_end drop_image "$limit" # where the guest's disk is in between
  at_end drop_image "$orphan"
  start_guest "$web" --disk "vda=$first,discard=unmap" --workload vda=mode=random,rate=50,span=64M,fill=256M --wait-filled
}

# slow_swap TARGET OPTIONS...: one that would last a minute; returns when the copy has begun.
slow_swap() {
  remember_jobs
  start_swap "$web" vda "$@" --bandwidth 4M
  wait_for_job
  until_true 60 copied_some
}

done_bytes() {
  poolshift status "$job" --json
  jq '.progress.done_bytes' "$T/report.json"
}

# bytes_in_3_s VARIABLE
bytes_in_3_s() {
  local before after
  before=$(done_bytes)
  sleep 3
  after=$(done_bytes)
  printf -v "$1" %d $((after - before))
}

test_status_and_bandwidth_of_a_running_job() {
  local to=$limit slow fast
  slow_swap "$to" --create
  poolshift status "$job" --json
  assert_exit 0
  assert_report '.schema == 1 and .job == $job and .running and .phase == "copy" and .guest_on == "source" and
    (.progress | (.step | test("^(copying|zeroing the target)$")) and .total_bytes >= .done_bytes)' --arg job "$job"
  poolshift status
  assert_exit 0
  grep -q "$job" "$T/out" || fail "the list does not have the job: $(<"$T/out")"
  bytes_in_3_s slow
  ((slow < 24 * MiB)) || fail "$slow bytes in 3 s are too many for 4M a second"
  poolshift set "$job" --bandwidth 40M --json
  assert_exit 0
  assert_report '.job == $job and .bandwidth_bytes_per_s == 40 * 1048576' --arg job "$job"
  sleep 1
  bytes_in_3_s fast
  say "$slow bytes in 3 s at 4M, $fast at 40M"
  ((fast > slow * 2)) || fail "$fast bytes in 3 s after the limit was raised, $slow before"
  poolshift set "$job" --bandwidth 0
  assert_exit 0
  await_swap
  assert_done "$first" "$to"
  assert_on_target "$web" vda "$first" "$to"
  poolshift set "$job" --bandwidth 1M
  assert_exit 3
  poolshift cancel "$job"
  assert_exit 3
  poolshift status "$job" --json
  assert_report '.state == "done" and .running == false'
}

# From another process. The target is given back as it was: same name, size, layout and metadata, empty.
test_cancel() {
  local to=volumes-hdd/cancel-$kFileTag before
  local spec='[.size, .features, .object_size, .data_pool]'
  new_image "$to" 640M --object-size 8M
  at_end empty_trash volumes-hdd
  rbd_admin image-meta set "$to" label kept
  before=$(rbd_admin info --format json "$to" | jq -c "$spec")
  slow_swap "$to"
  until_true 60 copied_some $((8 * MiB))
  poolshift cancel "$job" --json
  assert_exit 0
  assert_report '.job == $job and .asked == "cancel"' --arg job "$job"
  await_swap
  assert_cancelled "$to"
  assert_equal "$(rbd_admin info --format json "$to" | jq -c "$spec")" "$before" "the target"
  assert_equal "$(rbd_admin image-meta ls --format json "$to" | jq -c .)" '{"label":"kept"}' "the target's metadata"
  assert_equal "$(used_bytes "$to")" 0 "bytes used on the target"
  # What was copied is not deleted.
  assert_json <(trash_of volumes-hdd) 'length == 1'
  wait_for_writes "$web" vda 20
  assert_data "$web" vda "$limit"
  # The target can be used at once.
  poolshift check --domain "$web" --disk vda --to "$to" --json
  assert_exit 0
}

assert_cancelled() {
  assert_exit 6
  assert_report '.state == "cancelled" and .guest_on == "source" and .target == $to' --arg to "$1"
  assert_on_source "$web" vda "$limit"
}

# A target that the swap created is taken away again.
test_ctrl_c_once() {
  local to=volumes-hdd/ctrl-c-$kFileTag
  at_end drop_image "$to"
  at_end empty_trash volumes-hdd
  slow_swap "$to" --create
  kill -INT "$swap_pid"
  await_swap
  assert_cancelled "$to"
  ! image_exists "$to" || fail "the created target is still there"
  grep -q 'cancelling' "$T/err" || fail "it does not say that it cancels: $(<"$T/err")"
  wait_for_writes "$web" vda 20
}

# The second leaves it to `recover`, and says so. QEMU goes on meanwhile.
test_ctrl_c_twice() {
  local to=volumes-hdd/left-$kFileTag
  at_end drop_image "$to"
  slow_swap "$to" --create
  # Without an answer of libvirt the undo that the first asks for is not over before the second comes.
  kill -STOP "$(libvirtd pid)"
  at_end kill -CONT "$(libvirtd pid)"
  kill -INT "$swap_pid"
  sleep 1
  kill -INT "$swap_pid"
  sleep 1
  kill -CONT "$(libvirtd pid)"
  await_swap
  assert_exit 5
  assert_report '.state == "held"'
  grep -q "poolshift recover" "$T/err" || fail "it does not name recover: $(<"$T/err")"
  recover_all
  assert_exit 0
  assert_report '.jobs | length == 1 and .[0].job == $job and .[0].state == "cancelled"' --arg job "$job"
  at_end empty_trash volumes-hdd
  assert_on_source "$web" vda "$limit"
  wait_for_writes "$web" vda 20
  assert_data "$web" vda "$limit"
}

# Its process is dead; nobody has cancelled, so it is finished.
test_bandwidth_of_a_job_that_nobody_runs() {
  local to=$orphan
  slow_swap "$to" --create
  kill -KILL "$swap_pid"
  wait "$swap_pid" || true
  poolshift status "$job" --json
  assert_report '.running == false and .state == "held"'
  poolshift set "$job" --bandwidth 0
  assert_exit 0
  recover_all
  assert_exit 0
  assert_report '.jobs[0] | .job == $job and .state == "done" and .guest_on == "target"' --arg job "$job"
  assert_on_target "$web" vda "$limit" "$to"
  wait_for_writes "$web" vda 20
  assert_data "$web" vda "$to"
}

hydrates() {
  poolshift status "$job" --json
  jq -e '.running and .phase == "hydrate" and .progress.step == "hydrating"' "$T/report.json"
}

has_ended() { ! kill -0 "$1" 2>/dev/null; }

# At this limit an object takes more than a minute; nobody who asks for something waits so long.
test_offload_that_is_held_back() {
  local slow from=volumes-hdd/slow-$kFileTag to=volumes-ssd/slow-$kFileTag recover_pid
  slow=$(name slow)
  new_image "$from" 256M
  at_end drop_image "$to"
  start_guest "$slow" --disk "vda=$from,discard=unmap" --workload vda=mode=random,rate=10,span=16M,fill=64M --wait-filled
  remember_jobs
  start_swap "$slow" vda "$to" --create --engine handover --bandwidth 64K
  wait_for_job
  until_true 60 hydrates
  poolshift cancel "$job"
  assert_exit 0
  until_true 10 has_ended "$swap_pid" || fail "the cancel is not heard"
  await_swap
  assert_exit 5
  assert_report '.state == "held" and .guest_on == "target" and .error.code == "cancelled"'

  "$kPoolshift" recover "$job" --json "${kAccess[@]}" >"$T/recover.out" 2>"$T/recover.err" </dev/null &
  recover_pid=$!
  at_end end_process "$recover_pid"
  until_true 60 hydrates
  poolshift set "$job" --bandwidth 0
  assert_exit 0
  until_true 60 has_ended "$recover_pid" || fail "the limit is not lifted"
  await_process "$recover_pid" recover
  assert_exit 0
  assert_report '.jobs[0] | .job == $job and .state == "done" and .hydration.method == "offload"' --arg job "$job"
  assert_on_target "$slow" vda "$from" "$to"
  wait_for_writes "$slow" vda 20
  assert_data "$slow" vda "$to"
}

# A guest that rewrites a small region faster than the copy is allowed to be.
test_converges_under_a_hot_writer() {
  local hot from=volumes-hdd/hot-$kFileTag to=volumes-ssd/hot-$kFileTag before
  hot=$(name hot)
  new_image "$from" 256M
  at_end drop_image "$to"
  start_guest "$hot" --disk "vda=$from,discard=unmap" --workload vda=mode=hot,region=8M,fill=8M --wait-filled
  # A limit that the guest has anyway; it must be there again afterwards.
  virsh blkdeviotune "$hot" vda --write-bytes-sec 50000000 --total-iops-sec 0
  before=$(virsh blkdeviotune "$hot" vda)
  wait_for_writes "$hot" vda 20
  swap "$hot" vda "$to" --create --bandwidth 1M
  assert_done "$from" "$to"
  assert_report '.convergence | test("limited to [0-9]+ bytes/s")'
  grep -q 'convergence: the guest' "$T/err" || fail "the summary does not say how it converged"
  assert_equal "$(virsh blkdeviotune "$hot" vda)" "$before" "the guest's limits"
  assert_on_target "$hot" vda "$from" "$to"
  wait_for_writes "$hot" vda 100
  assert_data "$hot" vda "$to"
}

run_tests boot
