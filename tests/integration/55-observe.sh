#!/bin/bash
# What others see of swaps: metrics for Prometheus, and fields in systemd's journal.
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/functions.sh"

web=$(name web)
first=volumes-hdd/observe-$kFileTag
second=volumes-ssd/observe-$kFileTag
third=volumes-hdd/observed-$kFileTag

boot() {
  new_image "$first" 512M
  at_end drop_image "$second"
  at_end drop_image "$third"
  start_guest "$web" --disk "vda=$first,discard=unmap" --workload vda=mode=random,rate=50,span=64M,fill=256M --wait-filled
}

# listened: from now on what poolshift sends to systemd's journal is in $T/sent, an object a line.
listened() {
  requires unshare
  cat >"$T/poolshift" <<END
#!/bin/sh
exec '$tests/journald/listen' '$T/sent' '$POOLSHIFT_BUILD_DIR/cli/poolshift' "\$@"
END
  chmod 755 "$T/poolshift"
  kPoolshift=$T/poolshift
}
unlistened() { kPoolshift=$POOLSHIFT_BUILD_DIR/cli/poolshift; }

# assert_sent EXPRESSION [JQ-OPTIONS...]: of the list of all messages.
assert_sent() {
  local expression=$1
  shift
  jq -se "$@" "$expression" "$T/sent" >"$T/dump" || fail "not so: $expression
in $(jq -c 'del(.POOLSHIFT_DOMAIN_UUID)' "$T/sent")"
}

# metric NAME-WITH-LABELS: its value.
metric() { awk -v name="$1" '$1 == name { print $2 }' "$T/metrics"; }
look_at_metrics() {
  "$POOLSHIFT_BUILD_DIR/cli/poolshift" metrics >"$T/metrics"
  promtool check metrics <"$T/metrics" || fail "promtool is not content"
}
labels_of_job() { echo "{job_id=\"$job\",domain=\"$web\",disk=\"vda\"}"; }

test_a_swap_by_mirror() {
  requires promtool
  listened
  start_swap "$web" vda "$second" --create --engine mirror --bandwidth 4M
  wait_for_job
  unlistened
  until_true 60 copied_some 1000000
  look_at_metrics
  assert_equal "$(metric 'poolshift_jobs{state="open",engine="mirror"}')" 1 "jobs that run"
  assert_equal "$(metric 'poolshift_jobs_ended_total{state="done",engine="mirror"}')" 0 "jobs that have ended"
  (($(metric "poolshift_job_done_bytes$(labels_of_job)") > 1000000)) || fail "no progress: $(grep job_id "$T/metrics")"
  grep -q "^poolshift_job_info{job_id=\"$job\",.*phase=\"copy\",.*target=\"$second\"} 1$" "$T/metrics" || fail "it is not named"
  poolshift set "$job" --bandwidth 0
  await_swap
  assert_done "$first" "$second"
  look_at_metrics
  assert_equal "$(metric 'poolshift_jobs{state="open",engine="mirror"}')" 0 "jobs that run"
  assert_equal "$(metric 'poolshift_jobs_ended_total{state="done",engine="mirror"}')" 1 "jobs that have ended"
  assert_equal "$(metric 'poolshift_copied_bytes_total{engine="mirror"}')" "$(jq .bytes.copied "$T/report.json")" "bytes"
  assert_equal "$(metric 'poolshift_phase_duration_seconds_count{phase="copy",engine="mirror"}')" 1 "copies"
  assert_equal "$(metric poolshift_pause_duration_seconds_count)" 0 "pauses"
  ! grep -q job_id= "$T/metrics" || fail "an ended job is named"

  assert_sent 'all(.POOLSHIFT_JOB == $job and .POOLSHIFT_DOMAIN == $web and .POOLSHIFT_DISK == "vda" and
    .POOLSHIFT_SOURCE == $from and .POOLSHIFT_TARGET == $to and .POOLSHIFT_ENGINE == "mirror" and
    .SYSLOG_IDENTIFIER == "poolshift")' --arg job "$job" --arg web "$web" --arg from "$first" --arg to "$second"
  assert_sent '[.[] | select(.MESSAGE | test(" -> [a-z_]+$")) | .POOLSHIFT_PHASE] == ["copy", "pivot", "retire", "done"]'
  assert_sent '.[0].POOLSHIFT_PHASE == "prepare" and .[0].POOLSHIFT_STATE == "open" and .[-1].POOLSHIFT_STATE == "done" and
    .[-1].POOLSHIFT_GUEST_ON == "target" and (.[-1].MESSAGE | endswith(": done")) and all(has("MESSAGE_ID") | not)'
}

# Held, for all to see, and then not any more.
test_a_handover_that_is_held() {
  requires promtool
  listened
  remember_jobs
  start_swap "$web" vda "$third" --create --engine handover --hydrate offload --bandwidth 16M
  wait_for_job
  unlistened
  wait_for_phase hydrate || fail "it did not come to hydrate"
  poolshift cancel "$job"
  assert_exit 0
  await_swap
  assert_exit 5
  assert_sent '[.[] | select(has("MESSAGE_ID"))] | length == 1 and (.[0] | .POOLSHIFT_JOB == $job and .PRIORITY == "3" and
    .POOLSHIFT_STATE == "held" and .POOLSHIFT_PHASE == "held_on_target" and .POOLSHIFT_GUEST_ON == "target")' --arg job "$job"
  "$kPoolshift" metrics --write --metrics-file "$T/x.prom"
  cp "$T/x.prom" "$T/metrics"
  assert_equal "$(metric 'poolshift_jobs{state="held",engine="handover"}')" 1 "held jobs"
  assert_equal "$(metric poolshift_pause_duration_seconds_count)" 0 "pauses of jobs that have ended"

  listened
  poolshift recover "$job" --json
  assert_exit 0
  unlistened
  assert_sent 'all(.POOLSHIFT_JOB == $job and (has("MESSAGE_ID") | not)) and .[-1].POOLSHIFT_STATE == "done"' --arg job "$job"
  look_at_metrics
  assert_equal "$(metric 'poolshift_jobs{state="held",engine="handover"}')" 0 "held jobs"
  assert_equal "$(metric 'poolshift_jobs_ended_total{state="done",engine="handover"}')" 1 "jobs that have ended"
  assert_equal "$(metric poolshift_pause_duration_seconds_count)" 1 "pauses"
  assert_equal "$(metric poolshift_pause_duration_seconds_sum)" "$(jq '.jobs[0].seconds.pause' "$T/report.json")" "seconds of pause"
}

run_tests boot
