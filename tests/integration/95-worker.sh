#!/bin/bash
# Requests in the spool, the worker that makes their swaps and is killed at it, and a drain of eight guests.
# shellcheck disable=SC2016 # $x in quotes is jq's
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/functions.sh"

kGuests=(1 2 3 4 5 6 7 8)
kAtOnce=3

guest_name() { name "drain$1"; }
in_pool() { echo "volumes-$2/drain$1-$kFileTag"; }

# Few writes to few places: a limited copy has to be faster than they are.
boot_one() {
  guest start "$(guest_name "$1")" --memory 192 --disk "vda=$(in_pool "$1" hdd),discard=unmap" \
    --workload vda=mode=random,rate=2,span=1M,fill=24M --wait-filled
}

# Four at a time: an emulated CPU each.
boot() {
  local i pids=() pid
  for i in "${kGuests[@]}"; do
    at_end drop_image "$(in_pool "$i" ssd)"
    new_image "$(in_pool "$i" hdd)" 64M
    at_end guest stop "$(guest_name "$i")"
  done
  for i in "${kGuests[@]}"; do
    boot_one "$i" &
    pids+=($!)
    ((${#pids[@]} % 4 != 0)) || for pid in "${pids[@]: -4}"; do wait "$pid"; done
  done
}

# start_poolshift ARGUMENTS...: in the background; $poolshift_pid.
start_poolshift() {
  say "poolshift $* &"
  env --default-signal=INT,QUIT "$kPoolshift" "$@" "${kAccess[@]}" >"$T/background.out" 2>"$T/background.err" </dev/null &
  poolshift_pid=$!
  at_end end_process "$poolshift_pid"
}

# await_poolshift: its exit code in $status.
await_poolshift() { await_process "$poolshift_pid" background; }

# ask GUEST-NUMBER SOURCE TARGET [SWAP-KEYS]: a request as a script would put it there; its id is $request.
ask() {
  local uuid queue=$S/spool/queue
  uuid=$(virsh domuuid "$(guest_name "$1")" | tr -d '\n')
  request=$(printf '%012x' "$((RANDOM * RANDOM))")
  mkdir -p "$queue"
  jq -n --arg id "$request" --arg uuid "$uuid" --arg name "$(guest_name "$1")" --arg target "$3" --argjson swap "${4:-{\}}" \
    --arg pool "${2%%/*}" --arg image "${2#*/}" \
    '{schema: 1, id: $id, created_ms: (now * 1000 | floor), origin: "operator", domain: {uuid: $uuid, name: $name},
      disk: "vda", source: {pool: $pool, namespace: "", image: $image}, swap: ({target: $target, create: true} + $swap)}' \
    >"$queue/.$request"
  mv "$queue/.$request" "$queue/$uuid.vda.json"
}

# request_is STATE: that of $request.
request_is() {
  poolshift queue --json
  jq -e --arg id "$request" --arg state "$1" '.requests[] | select(.id == $id) | .state == $state' "$T/report.json"
}

# job_copies MIB: the job of $request has begun, and got so far.
job_copies() {
  poolshift status --json
  jq -e --arg id "$request" --argjson least "$(($1 * MiB))" '.jobs[] | select(.labels.request == $id and .running) |
    .progress != null and .progress.done_bytes >= $least' "$T/report.json"
}

# assert_moved GUEST-NUMBER SOURCE TARGET: with every acknowledged write.
assert_moved() {
  local guest
  guest=$(guest_name "$1")
  assert_equal "$(disk_image "$guest" vda)" "$3" "the disk of guest $1"
  assert_equal "$(disk_image "$guest" vda --inactive)" "$3" "the disk of guest $1, when it is started again"
  # Who was killed while it had an image open keeps its watch for 30 s.
  until_true 45 has_watchers "$3" 1 || fail "$3 has $(watchers "$3") watchers instead of 1"
  until_true 45 has_watchers "$2" 0 || fail "$2 has $(watchers "$2") watchers"
  wait_for_writes "$guest" vda 5
  assert_data "$guest" vda "$3"
}

requests_in() {
  local files=("$S/spool/$1"/*.json)
  echo "${#files[@]}"
}
running_requests() { requests_in running; }
done_requests() { requests_in 'done'; }

# A drain of eight guests, one of them shut off, three at once, killed in the middle; the same command goes on.
test_drain_killed_in_the_middle() {
  local i drain=(drain --from volumes-hdd --to volumes-ssd --match "drain*-$kFileTag" --parallel "$kAtOnce" --json)
  local most=0 now
  virsh destroy "$(guest_name 8)" >/dev/null
  until_true 45 has_watchers "$(in_pool 8 hdd)" 0
  poolshift "${drain[@]}" --dry-run
  assert_exit 0
  assert_report '[.disks[] | select(.state == "would move")] | length == 8'
  [[ ! -d $S/spool ]] || fail "a dry run has made a spool"
  start_poolshift "${drain[@]}" --bandwidth 24M
  until (($(done_requests) >= 2 && $(running_requests) >= 2)); do
    kill -0 "$poolshift_pid" || fail "the drain ended early: $(<"$T/background.err")"
    now=$(running_requests)
    ((now <= most)) || most=$now
    sleep 0.1
  done
  kill -KILL "$poolshift_pid"
  wait "$poolshift_pid" || true
  say "killed with $(done_requests) done and $(running_requests) running"
  poolshift queue
  assert_exit 0
  start_poolshift "${drain[@]}"
  while kill -0 "$poolshift_pid" 2>/dev/null; do
    now=$(running_requests)
    ((now <= most)) || most=$now
    sleep 0.1
  done
  await_poolshift
  assert_exit 0
  assert_report '[.disks[] | select(.state == "done")] | length >= 3 and length == ($all | length)' --argjson all "$(jq .disks "$T/report.json")"
  ((most >= 2 && most <= kAtOnce)) || fail "$most swaps at once, asked for were $kAtOnce"
  assert_equal "$(done_requests)" 8 "requests that are done"
  assert_equal "$(running_requests)" 0 "requests that still run"
  # Each disk was moved once: no more jobs than disks.
  poolshift status --json
  assert_report '[.jobs[] | select(.state == "done")] | length == 8 and ([.[].source] | unique | length == 8)'
  virsh start "$(guest_name 8)" >/dev/null
  for i in "${kGuests[@]}"; do assert_moved "$i" "$(in_pool "$i" hdd)" "$(in_pool "$i" ssd)"; done
  until_true 45 watches_are_settled
  assert_nothing_left "$(guest_name 1)" vda
  poolshift "${drain[@]}"
  assert_exit 0
  assert_report '.disks == []'
}

test_request_in_the_queue() {
  local from to=volumes-hdd/asked1-$kFileTag
  from=$(in_pool 1 ssd)
  at_end drop_image "$to"
  ask 1 "$from" "$to"
  request_is waiting
  poolshift worker --once
  assert_exit 0
  request_is 'done'
  assert_moved 1 "$from" "$to"
  # The disk is on another image by now: asked for again it is refused, and the reason is kept.
  ask 1 "$from" "volumes-hdd/again1-$kFileTag"
  poolshift worker
  assert_exit 0
  request_is refused
  assert_json "$T/report.json" '.requests[] | select(.id == $id) | .error.message | test("the request names")' --arg id "$request"
}

test_bad_files_do_not_stop_the_worker() {
  local from to=volumes-hdd/asked2-$kFileTag
  from=$(in_pool 2 ssd)
  at_end drop_image "$to"
  mkdir -p "$S/spool/queue"
  echo rubbish >"$S/spool/queue/rubbish.json"
  ln -s /etc/passwd "$S/spool/queue/link.json"
  mkfifo "$S/spool/queue/fifo.json"
  ask 2 "$from" "$to"
  poolshift worker
  assert_exit 0
  request_is 'done'
  assert_report '[.unreadable[].error.message] | length == 3 and any(test("not JSON")) and any(test("symbolic link")) and any(test("regular file"))'
  assert_equal "$(ls -A "$S/spool/queue")" '' "what is left in the queue"
}

# SIGTERM, as systemd ends it, leaves the swap; kill -9 does not ask. The next worker goes on each time.
test_worker_ended_and_killed_in_mid_swap() {
  local from to=volumes-hdd/asked3-$kFileTag swap='{"bandwidth_bytes_per_s": 2097152, "engine": "mirror"}'
  from=$(in_pool 3 ssd)
  at_end drop_image "$to"
  ask 3 "$from" "$to" "$swap"
  start_poolshift worker
  until_true 60 job_copies 2
  # One worker at a time.
  poolshift worker --once
  assert_exit 3
  kill -TERM "$poolshift_pid"
  await_poolshift
  assert_exit 0
  request_is held
  start_poolshift worker
  until_true 60 job_copies 3
  kill -KILL "$poolshift_pid"
  wait "$poolshift_pid" || true
  request_is held
  assert_report '.requests[] | select(.id == $id) | .error.advice | test("poolshift recover")' --arg id "$request"
  poolshift set "$(jq -r --arg id "$request" '.requests[] | select(.id == $id) | .job.job' "$T/report.json")" --bandwidth 0
  assert_exit 0
  poolshift worker
  assert_exit 0
  request_is 'done'
  poolshift status --json
  assert_report '[.jobs[] | select(.labels.request == $id)] | length == 1' --arg id "$request"
  assert_moved 3 "$from" "$to"
}

# Somebody cancels the swap: the request is not tried again.
test_cancelled_swap_of_a_request() {
  local from to=volumes-hdd/asked4-$kFileTag
  from=$(in_pool 4 ssd)
  at_end drop_image "$to"
  at_end empty_trash volumes-hdd
  ask 4 "$from" "$to" '{"bandwidth_bytes_per_s": 2097152, "engine": "mirror"}'
  start_poolshift worker
  until_true 60 job_copies 4
  poolshift status --json
  poolshift cancel "$(jq -r --arg id "$request" '.jobs[] | select(.labels.request == $id) | .job' "$T/report.json")"
  assert_exit 0
  await_poolshift
  assert_exit 0
  request_is cancelled
  assert_on_source "$(guest_name 4)" vda "$from"
}

run_tests boot
