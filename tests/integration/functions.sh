# What every integration test sources: `. "$(dirname -- "$0")/functions.sh"`, then functions test_*, then `run_tests`.
# shellcheck shell=bash disable=SC2034,SC2016 # what is set here is for the tests; $x in quotes is jq's
#
# A test file runs on the stack that the environment names (`run` sees to that) and leaves it as it was. Its functions
# test_* run in the order in which they stand in it, each in a shell of its own with `set -e`: the first command that
# fails ends the test. What must be done afterwards in any case is given to `at_end`, in the test or in the file.
#
#   $T            a folder of this test alone; kept in the log folder when the test fails
#   $S            state folder of poolshift, of this file alone
#   status        exit code of the last `poolshift`; its output is in $T/out and $T/err, its report in $T/report.json

set -euo pipefail
shopt -s inherit_errexit nullglob

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
tests=$(dirname -- "$here")
file=$(basename -- "$0")
: "${STACK_DIR:?run this with tests/integration/run}" "${POOLSHIFT_BUILD_DIR:?}" "${POOLSHIFT_TEST_LOGS:?}"

kPoolshift=$POOLSHIFT_BUILD_DIR/cli/poolshift
kLibrary=$(realpath -- "$POOLSHIFT_BUILD_DIR"/plugin/libpoolshift.so.1)
kForbiddenPool=volumes-other # whose images the guests' user may not touch
export POOLSHIFT_GUARDIAN=$POOLSHIFT_BUILD_DIR/guardian/poolshift-guardian
# QEMU must be able to pass through it, which it cannot through the state folders of tests.
export POOLSHIFT_OVERLAY_DIR=$STACK_DIR/overlays
MiB=$((1 << 20))
GiB=$((1 << 30))

# --- running ---------------------------------------------------------------------------------------------------------

# An image name that no other test has: `name web` gives web-12345.
kFileTag=$$
name() { echo "$1-$kFileTag"; }

# say WORDS...: to the log of the test.
say() { printf '%s %s\n' "$(date +%T.%3N)" "$*" >&2; }

# fail WORDS...: the test has failed.
fail() {
  say "FAILED: $*"
  exit 1
}

# skip WORDS...: this test makes no sense here.
skip() {
  printf '%s\n' "$*" >"$T/skipped"
  exit 77
}

requires() { command -v "$1" >/dev/null || skip "there is no '$1'"; }

# at_end COMMAND...: in the reverse order, also after a failure.
at_end() { at_end_list+=("$(printf '%q ' "$@")"); }
at_end_list=()
run_at_end() {
  local i pool
  trap - ERR
  set +e
  for ((i = ${#at_end_list[@]} - 1; i >= 0; i--)); do eval "${at_end_list[i]}" >&2 </dev/null; done
  at_end_list=()
  # There are the empty images whose names clones took.
  if [[ $engine == handover ]]; then for pool in $STACK_POOLS; do empty_trash "$pool"; done; fi
  set -e
}

on_error() {
  local status=$? failed_command=$BASH_COMMAND frame
  # Each shell on the way out would tell it again.
  [[ ! -e $T/told ]] || return 0
  : >"$T/told"
  for ((frame = 1; frame < ${#FUNCNAME[@]}; frame++)); do
    [[ ${FUNCNAME[frame]} != one_test ]] || break
    say "  in ${FUNCNAME[frame]} (${BASH_SOURCE[frame]##*/}:${BASH_LINENO[frame - 1]})"
  done
  say "FAILED with $status: $failed_command"
}

one_test() (
  set -eE
  trap 'run_at_end' EXIT
  trap on_error ERR
  at_end_list=()
  "$1"
)

collect_logs() {
  mkdir -p "$POOLSHIFT_TEST_LOGS"
  rm -rf "${POOLSHIFT_TEST_LOGS:?}/$file.$1"
  cp -r "$T" "$POOLSHIFT_TEST_LOGS/$file.$1"
  (
    cd "$POOLSHIFT_TEST_LOGS/$file.$1"
    cp -r "$S" state
    ceph_admin status >ceph-status 2>&1
    virsh list --all >domains 2>&1
    tail -n 200 "$STACK_LIBVIRT_LOG" >libvirtd.log
    local guest
    for guest in "$STACK_DIR"/guests/*; do
      tail -n 200 "$guest/serial.log" >"guest-${guest##*/}.log"
      tail -n 50 "$STACK_DIR/lv/log/qemu/${guest##*/}.log" >"qemu-${guest##*/}.log"
    done
  ) >/dev/null 2>&1 || true
}

in_setup=no
end_file() {
  if [[ $in_setup == yes ]]; then
    collect_logs setup
    echo "Bail out! $file: the set-up failed, see $POOLSHIFT_TEST_LOGS/$file.setup"
  fi
  T=$base
  run_at_end >/dev/null 2>&1
  rm -rf "${base:?}"
}

# run_tests [SETUP]: all test_* of the file, as TAP. SETUP runs before them, once; when it fails so do all.
run_tests() {
  local function functions began number=0 failed=0 outcome reason setup=${1:-}
  base=$(mktemp -d "${TMPDIR:-/tmp}/poolshift-it.XXXXXX")
  S=$base/state
  export POOLSHIFT_STATE_DIR=$S
  export POOLSHIFT_CONFIG=$base/poolshift.conf # not that of this machine
  : >"$POOLSHIFT_CONFIG"
  trap end_file EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  # In the order of the file; a pattern may choose among them.
  mapfile -t functions < <(sed -n 's/^\(test_[a-z0-9_]*\)() .*/\1/p' "${BASH_SOURCE[1]}" | grep -E -- "${POOLSHIFT_TEST_ONLY:-.}")
  echo "1..${#functions[@]}"
  ((${#functions[@]} > 0)) || exit 0
  if [[ -n $setup ]]; then
    T=$base/setup
    mkdir -p "$T"
    in_setup=yes
    set -E
    trap on_error ERR
    "$setup" >"$T/log" 2>&1
    trap - ERR
    in_setup=no
  fi
  for function in "${functions[@]}"; do
    T=$base/$function
    mkdir -p "$T" "$S"
    began=${EPOCHREALTIME/[.,]/}
    outcome=0
    set +e
    one_test "$function" >"$T/log" 2>&1
    outcome=$?
    set -e
    number=$((number + 1))
    local took=$(((${EPOCHREALTIME/[.,]/} - began) / 100000))
    took="$((took / 10)).$((took % 10)) s"
    if ((outcome == 0)); then
      echo "ok $number - $file $function ($took)"
    elif ((outcome == 77)) && [[ -e $T/skipped ]]; then
      echo "ok $number - $file $function # SKIP $(<"$T/skipped")"
    else
      reason=$(sed -n 's/^[0-9:.]* FAILED[^:]*: //p' "$T/log" | head -n 1 | tr -d '#' | cut -c 1-200)
      echo "not ok $number - $file $function ($took)${reason:+: $reason}"
      tail -n 15 "$T/log" | cut -c 1-400 | sed 's/^/# /'
      collect_logs "$function"
      failed=1
    fi
    rm -rf "$T"
  done
  ((failed == 0))
}

# --- the stack -------------------------------------------------------------------------------------------------------

# What it says on stderr is mostly progress: shown only when it fails.
rbd_admin() {
  local said=$T/rbd.$BASHPID failed=0
  rbd -c "$STACK_CEPH_CONF" "$@" 2>"$said" || failed=$?
  ((failed == 0)) || say "rbd $*: $(tr '\r' '\n' <"$said")"
  return $failed
}
ceph_admin() { ceph -c "$STACK_CEPH_CONF" "$@"; }
rados_admin() { rados -c "$STACK_CEPH_CONF" "$@"; }
virsh() { command virsh --quiet --connect "$STACK_LIBVIRT_URI" "$@"; }
guest() { "$tests/stack/guest" "$STACK_DIR" "$@" </dev/null; }
libvirtd() { "$tests/stack/libvirtd" "$STACK_DIR" "$@" </dev/null; }

# until_true SECONDS COMMAND...: polls; fails when the time is over.
until_true() {
  local deadline=$((${EPOCHREALTIME/[.,]/} + $1 * 1000000))
  shift
  until "$@" >/dev/null 2>&1; do
    if ((${EPOCHREALTIME/[.,]/} > deadline)); then
      say "waited in vain for: $*"
      return 1
    fi
    sleep 0.1
  done
}

# start_guest NAME OPTIONS... (see tests/stack/guest): stopped at the end.
start_guest() {
  at_end guest stop "$1"
  guest start "$@"
}

# new_image IMAGE SIZE [OPTIONS...]: removed at the end, with whatever undo or retire made of it.
new_image() {
  local image=$1 size=$2
  shift 2
  at_end drop_image "$image"
  rbd_admin create --size "$size" "$@" "$image"
}

image_exists() { rbd_admin info "$1" >/dev/null 2>&1; }

# A guest that has just died keeps its image busy for up to 30 s; mostly it closes it.
drop_image() { until_true 40 remove_image "$1"; }
remove_image() {
  image_exists "$1" || return 0
  rbd_admin snap purge "$1" && rbd_admin rm "$1"
}

trash_of() { rbd_admin trash ls --format json "$1" | jq -c 'sort_by(.id)'; }
empty_trash() {
  local pool=$1 id
  for id in $(trash_of "$pool" | jq -r '.[].id'); do rbd_admin trash rm --force "$pool/$id"; done
}

watchers() { rbd_admin status --format json "$1" | jq '.watchers | length'; }
has_watchers() { (($(watchers "$1") == $2)); }
image_size() { rbd_admin info --format json "$1" | jq .size; }
image_id() { rbd_admin info --format json "$1" | jq -r .id; }
# Bytes that hold data, by the extents of the objects.
used_bytes() { rbd_admin diff --format json "$1" | jq '[.[] | select(.exists == "true").length] | add // 0'; }

# The image that the disk of a domain is on: `disk_image web vda [--inactive]`.
disk_image() {
  local domain=$1 disk=$2
  shift 2
  virsh domblklist "$domain" "$@" | awk -v disk="$disk" '$1 == disk { print $2 }'
}

state_of_domain() { virsh domstate "$1" | head -n 1; }

# --- the guest's data ------------------------------------------------------------------------------------------------

guest_check() { "$POOLSHIFT_BUILD_DIR/tests/guest/guest-check" --conf "$STACK_CEPH_CONF" --json "$@"; }

serial_log() { echo "$STACK_DIR/guests/$1/serial.log"; }

# acknowledged GUEST DISK: number of writes so far.
acknowledged() { grep -c "^A $2 " "$(serial_log "$1")" || true; }

wrote_more_than() { (($(acknowledged "$1" "$2") > $3)); }

# wait_for_writes GUEST DISK COUNT: so many more; the guest is alive and its disk takes writes.
wait_for_writes() {
  local seen
  seen=$(acknowledged "$1" "$2")
  until_true 60 wrote_more_than "$1" "$2" $((seen + $3)) || fail "guest '$1' stopped writing to $2"
}

# assert_data GUEST DISK IMAGE [GUEST-CHECK-OPTIONS...]: IMAGE holds every write of the guest that was acknowledged, and there were no errors.
assert_data() {
  guest_check --image "$3" --disk "$2" --log "$(serial_log "$1")" "${@:4}" >"$T/data.json" ||
    fail "the data on $3 is not right: $(jq -c '[.blocks, .violations]' "$T/data.json")"
  assert_json "$T/data.json" '.ok and .blocks.acknowledged_and_right > 0 and .log.errors == 0'
  say "data on $3: $(jq -c .blocks "$T/data.json")"
}

# --- poolshift -------------------------------------------------------------------------------------------------------

kAccess=(--connect "$STACK_LIBVIRT_URI")

# poolshift ARGUMENTS...: never fails; see `status` above.
poolshift() {
  status=0
  say "poolshift $*"
  "$kPoolshift" "$@" "${kAccess[@]}" >"$T/out" 2>"$T/err" </dev/null || status=$?
  tail -n 1 "$T/out" >"$T/report.json"
  say "exit $status: $(cut -c 1-2000 "$T/report.json")"
  sed 's/^/    /' "$T/err" >&2
}

# The engine of `swap` and `start_swap`; a test file may set it before it sources this.
engine=${engine:-mirror}

# swap GUEST DISK TARGET OPTIONS...
swap() {
  local guest=$1 disk=$2 target=$3
  shift 3
  [[ " $* " == *' --engine '* ]] || set -- --engine "$engine" "$@"
  poolshift swap --domain "$guest" --disk "$disk" --to "$target" --json --progress none "$@"
}

# start_swap GUEST DISK TARGET OPTIONS...: in the background; $swap_pid, and wait_for_job for the job's id.
start_swap() {
  local guest=$1 disk=$2 target=$3
  shift 3
  [[ " $* " == *' --engine '* ]] || set -- --engine "$engine" "$@"
  say "poolshift swap $* &"
  rm -f "$T/swap.status"
  # A shell's background process ignores SIGINT, unless told otherwise.
  env --default-signal=INT,QUIT "$kPoolshift" swap --domain "$guest" --disk "$disk" --to "$target" --json \
    --progress none "$@" "${kAccess[@]}" >"$T/swap.out" 2>"$T/swap.err" </dev/null &
  swap_pid=$!
  at_end end_process "$swap_pid"
}

end_process() { ! kill -0 "$1" 2>/dev/null || kill -KILL "$1"; }

# await_swap: waits for start_swap's process; then as after `poolshift`.
await_swap() { await_process "$swap_pid" swap; }

# await_process PID NAME: a poolshift in the background that writes to $T/NAME.out and $T/NAME.err; then as after `poolshift`.
await_process() {
  status=0
  wait "$1" || status=$?
  cp "$T/$2.out" "$T/out"
  cp "$T/$2.err" "$T/err"
  tail -n 1 "$T/out" >"$T/report.json"
  say "exit $status: $(cut -c 1-2000 "$T/report.json")"
  sed 's/^/    /' "$T/err" >&2
}

# Journals are looked at directly: `poolshift status` takes longer than some phases.
journals() { echo "$S"/jobs/*.journal; }
newest_journal() {
  local files=("$S"/jobs/*.journal)
  # Without a file 'ls' would list the current folder.
  # shellcheck disable=SC2012
  ((${#files[@]} == 0)) || ls -t "${files[@]}" | head -n 1
}

# journal_phase FILE: of its last whole record.
journal_phase() {
  local text
  text=$(tail -n 1 "$1") || return 1
  [[ $text =~ \"phase\":\"([a-z_]+)\" ]] && echo "${BASH_REMATCH[1]}"
}

# wait_for_job: the id of the job that start_swap started, in $job. Journals of earlier jobs are ended ones.
wait_for_job() {
  local deadline=$((${EPOCHREALTIME/[.,]/} + 60000000)) journal
  while :; do
    for journal in "$S"/jobs/*.journal; do
      [[ ! -e $T/known/${journal##*/} ]] || continue
      job=${journal##*/}
      job=${job%.journal}
      return 0
    done
    ((${EPOCHREALTIME/[.,]/} < deadline)) || fail "no job was started: $(<"$T/swap.err")"
    kill -0 "$swap_pid" 2>/dev/null || fail "the swap ended at once: $(<"$T/swap.err")"
  done
}

# remember_jobs: those that are there now are not what wait_for_job waits for.
remember_jobs() {
  local journal
  mkdir -p "$T/known"
  for journal in "$S"/jobs/*.journal; do : >"$T/known/${journal##*/}"; done
}

# wait_for_phase PHASE: polls the journal of $job without starting a process.
wait_for_phase() {
  local deadline=$((${EPOCHREALTIME/[.,]/} + 120000000)) text
  while :; do
    text=$(<"$S/jobs/$job.journal")
    text=${text##*$'\n'}
    [[ $text != *"\"phase\":\"$1\""* ]] || return 0
    [[ $text != *'"phase":"done"'* && $text != *'"phase":"undone"'* && $text != *'"phase":"held'* ]] || return 1
    ((${EPOCHREALTIME/[.,]/} < deadline)) || return 1
  done
}

# copied_some [BYTES]: the copy of $job has begun and got so far (0).
copied_some() {
  poolshift status "$job" --json
  jq -e --argjson least "${1:-0}" '(.phase | IN("copy", "hydrate")) and .progress != null and .progress.done_bytes > $least' \
    "$T/report.json"
}

# --- assertions ------------------------------------------------------------------------------------------------------

assert_exit() { ((status == $1)) || fail "exit code $status instead of $1: $(<"$T/err")"; }

# assert_json FILE EXPRESSION [JQ-OPTIONS...]
assert_json() {
  local json=$1 expression=$2
  shift 2
  jq -e "$@" "$expression" "$json" >/dev/null || fail "not so: $expression
in $(jq -c . "$json" 2>/dev/null || cat "$json")"
}

assert_report() { assert_json "$T/report.json" "$@"; }

assert_equal() { [[ $1 == "$2" ]] || fail "${3:-value}: '$1' instead of '$2'"; }

kReportKeys='["job","state","guest_on","engine","source","target","bytes","seconds","checks","error"]'

# assert_done SOURCE TARGET: the last line is the report of a swap that is done.
assert_done() {
  assert_exit 0
  assert_report '.schema == 1 and .state == "done" and .guest_on == "target" and .error == null and .engine == $engine' \
    --arg engine "$engine"
  assert_report "$kReportKeys - keys == []"
  assert_report '.source == $source and .target == $target' --arg source "$1" --arg target "$2"
  assert_report '.bytes | .virtual > 0 and .copied >= 0 and .source_used >= 0 and .target_used >= 0'
  if [[ $engine == mirror ]]; then
    assert_report '.seconds | [.validate, .prepare, .copy, .pivot, .retire, .total] | all(. > 0)'
    assert_report '.seconds.pause == 0 and .hydration == null and .bytes.copied > 0'
  else
    assert_report '.seconds | [.validate, .prepare, .pivot, .hydrate, .retire, .total] | all(. > 0)'
    assert_report '.seconds.copy == 0 and .hydration.reason != ""'
  fi
  assert_report '[.checks[].result] | length > 5 and all(. == "pass" or . == "warn")'
}

# assert_refused CHECK REGEX: exit 3; CHECK refused, with evidence that matches REGEX and advice.
assert_refused() {
  assert_exit 3
  assert_report '.state == "refused" and .job == null and .guest_on == "source" and .error.message != ""'
  assert_report '[.checks[] | select(.result == "refuse") | select(.name == $name)] | length == 1 and
    (.[0].found | test($found)) and (.[0].do | length > 10)' --arg name "$1" --arg found "$2"
  grep -q 'refused' "$T/err" || fail "nothing on stderr says that it was refused"
}

# assert_on_target GUEST DISK SOURCE TARGET: seen from libvirt and from the cluster, not from the report.
assert_on_target() {
  assert_equal "$(disk_image "$1" "$2")" "$4" "the disk of the running domain"
  if [[ $(virsh dominfo "$1") == *Persistent:*yes* ]]; then
    assert_equal "$(disk_image "$1" "$2" --inactive)" "$4" "the disk of the persistent domain"
  fi
  assert_equal "$(watchers "$4")" 1 "watchers of the target"
  if image_exists "$3"; then assert_equal "$(watchers "$3")" 0 "watchers of the source"; fi
  assert_nothing_left "$1" "$2"
}

# assert_on_source GUEST DISK SOURCE
assert_on_source() {
  assert_equal "$(disk_image "$1" "$2")" "$3" "the disk of the running domain"
  # A poolshift that was killed while it had the source open keeps its watch for 30 s.
  until_true 45 has_watchers "$3" 1 || fail "watchers of the source: '$(watchers "$3")' instead of 1"
  assert_nothing_left "$1" "$2"
}

# assert_nothing_left GUEST DISK: no block job, no tag, no half-made image, no snapshot or clone of ours, no overlay, no
# guardian, no file but journals of ended jobs.
assert_nothing_left() {
  local pool image journal left
  [[ -z $(virsh blockjob "$1" "$2" --raw 2>/dev/null) ]] || fail "a block job is left: $(virsh blockjob "$1" "$2")"
  [[ $(virsh dumpxml "$1") != *'<mirror '* ]] || fail "a mirror is left in the domain's XML"
  for pool in $STACK_POOLS; do
    for image in $(rbd_admin ls "$pool"); do
      [[ $image != poolshift.* ]] || fail "image $pool/$image is left over"
      [[ $(rbd_admin image-meta ls "$pool/$image" 2>/dev/null) != *poolshift* ]] || fail "$pool/$image is still tagged"
      [[ $(rbd_admin info "$pool/$image") != *parent:*@poolshift.* ]] || fail "$pool/$image is still a clone"
      [[ $(rbd_admin snap ls --all "$pool/$image") != *poolshift.* ]] || fail "$pool/$image still has our snapshot"
    done
  done
  for journal in $(journals); do
    [[ $(journal_phase "$journal") =~ ^(done|undone)$ ]] || fail "${journal##*/} is open: $(journal_phase "$journal")"
  done
  left=$(cd "$S/jobs" && find . -type f ! -name '*.journal' ! -name '.*lock')
  [[ -z $left ]] || fail "files are left in the state folder: $left"
  left=$(ls "$POOLSHIFT_OVERLAY_DIR" 2>/dev/null || true)
  [[ -z $left ]] || fail "overlays are left: $left"
  until_true 5 no_guardian || fail "a guardian is left: $(pgrep -af "^$POOLSHIFT_GUARDIAN")"
}

no_guardian() { ! pgrep -f "^$POOLSHIFT_GUARDIAN" >/dev/null; }

# metadata_of POOL IMAGE-ID: read from the header object, because 'rbd image-meta ls' opens the image for writing and waits
# while its pool is full.
metadata_of() {
  local key
  for key in $(rados_admin -p "$1" listomapkeys "rbd_header.$2" | grep '^metadata_'); do
    echo "$key $(rados_admin -p "$1" getomapval "rbd_header.$2" "$key")"
  done
}

# world FILE: all that a refused request might have changed. The time stamps of images change by reading and writing.
world() (
  set +eE
  trap - ERR
  # Not its stderr: librados says there what it meets while it connects.
  rbd() { command rbd -c "$STACK_CEPH_CONF" --format json "$@" 2>/dev/null || echo "rbd $*: failed with $?"; }
  {
    ceph_admin osd pool ls detail | sed 's/ last_change [0-9]*//; s/ lfor [0-9/]*//; s/,creating//; /removed_snaps_queue/d'
    for pool in $STACK_POOLS $kForbiddenPool; do
      echo "== pool $pool"
      rbd trash ls "$pool"
      for image in $(command rbd -c "$STACK_CEPH_CONF" ls "$pool"); do
        echo "-- $image"
        rbd info "$pool/$image" | jq -c 'del(.access_timestamp, .modify_timestamp)'
        metadata_of "$pool" "$(rbd info "$pool/$image" | jq -r .id)"
        rbd lock ls "$pool/$image"
        rbd status "$pool/$image"
      done
    done
    for domain in $(virsh list --all --name); do
      echo "== domain $domain"
      virsh dumpxml "$domain"
      virsh dumpxml "$domain" --inactive
    done
    echo "== state"
    [[ ! -d $S ]] || (cd "$S" && find . -type f ! -name '.*lock' -exec sha256sum {} + | sort -k 2)
  } >"$1" 2>"$1.stderr"
)

# unchanged_by COMMAND...: fails when it changed anything.
unchanged_by() {
  world "$T/world.before"
  "$@"
  world "$T/world.after"
  grep -q '^pool ' "$T/world.before" || fail "the world could not be looked at: $(<"$T/world.before.stderr")"
  diff -u "$T/world.before" "$T/world.after" >"$T/world.diff" || fail "something was changed: $(<"$T/world.diff")"
}

# No image has two clients: a poolshift that was killed keeps its watch for 30 s.
watches_are_settled() {
  local pool image
  for pool in $STACK_POOLS; do
    for image in $(rbd_admin ls "$pool"); do (($(watchers "$pool/$image") <= 1)) || return 1; done
  done
}

# recover_all: by `poolshift recover`; the second time it finds nothing to do and changes nothing.
recover_all() {
  poolshift recover --json --patience 30
  cp "$T/report.json" "$T/recovered.json"
  local first=$status
  until_true 45 watches_are_settled
  unchanged_by poolshift recover --json
  assert_exit 0
  assert_report '.jobs == []'
  status=$first
  cp "$T/recovered.json" "$T/report.json"
}
