#!/bin/bash
# Every example of the manual pages, README.md and docs/operators-guide.md, in its order (tests/docs/examples.awk finds them).
# A command must end with 0, or as its comment says: "# exit status 5", "# exit status 0, or 5: still held". What has the comment
# "# in another shell" is run while the command above it is at work. JOB, REQUEST and what is called web1 and web2 are
# provided here. What cannot be run here is in kNotRun, with the reason.
# shellcheck disable=SC2016 # $x in quotes is jq's and the examples'

# The examples name /etc/poolshift and /var/lib/poolshift: here these are the stack's, as libvirtd sees them too.
if [[ ${POOLSHIFT_EXAMPLES_INSIDE:-} != yes ]]; then
  # shellcheck source=tests/stack/functions.sh
  . "$(dirname -- "$0")/../stack/functions.sh"
  export POOLSHIFT_EXAMPLES_INSIDE=yes
  status=0
  in_stack_namespace "${STACK_DIR:?run this with tests/integration/run}" bash "$0" || status=$?
  exit "$status"
fi
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/functions.sh"

root=$(dirname -- "$tests")
kGuide=docs/operators-guide.md
kHook=$POOLSHIFT_BUILD_DIR/hooks/poolshift-qemu-hook
kInstalled=$STACK_LIBVIRT_ETC/hooks/qemu.d/50-poolshift

# REGEX|REASON
kNotRun=(
  '^\./(demo|test)( |$)|starts a stack of its own'
  '^(cmake|ctest|ninja|flock) |builds, or runs what is built: done before this test'
  '^packaging/build |builds packages: tests/packaging/run does it'
  '^cd out/packages$|that is where the packages are'
  '^(apt|apt-get|dpkg|dnf) |installs or removes packages: tests/packaging/run does it'
  '^systemctl |there is no systemd here; tests/cli/check_units.sh looks at the units'
  '^journalctl |there is no journal here'
  '^openstack |there is no OpenStack here; tests/openstack/run retypes volumes'
  '^sudo -u nova |there is no user nova here; what follows is run without it elsewhere'
  '^ceph auth caps |would take rights from the users of other tests'
)

# --- the stage -------------------------------------------------------------------------------------------------------

# libvirt gives a hook no variables: the state folder is the one that it looks into.
setup() {
  S=/var/lib/poolshift
  unset POOLSHIFT_STATE_DIR
  export LIBVIRT_DEFAULT_URI=$STACK_LIBVIRT_URI
  at_end libvirtd restart
  at_end rm -f "$kInstalled"
  install -m 755 "$kHook" "$kInstalled"
  libvirtd restart # which looks for hooks when it starts
}

wipe() {
  local pool image guest
  for guest in web1 web2; do guest stop "$guest"; done
  for pool in $STACK_POOLS; do
    for image in $(rbd_admin ls "$pool"); do
      case $image in web[12]* | poolshift.*) drop_image "$pool/$image" ;; esac
    done
    empty_trash "$pool"
  done
  rm -rf "${S:?}"/* /etc/poolshift/policy.d/*
}

# set_stage: guests web1 and web2 run on volumes-hdd, nothing has ever happened.
set_stage() {
  wipe
  at_end wipe
  guest start web1 --disk vda=volumes-hdd/web1,size=1G,discard=unmap --workload vda=mode=random,rate=5,span=16M,fill=256M &
  local first=$!
  guest start web2 --disk vda=volumes-hdd/web2,size=64M,discard=unmap --workload vda=mode=random,rate=2,span=1M,fill=32M \
    --wait-filled
  wait "$first"
  guest wait web1 '^FILLED vda ' 120
  poolshift worker --once # makes the spool, as systemd-tmpfiles does on a node
  assert_exit 0
}

# newest_job: its id, or nothing.
newest_job() {
  local journal
  journal=$(newest_journal)
  [[ -z $journal ]] || basename -- "$journal" .journal
}

# other_pool GUEST: the one where its disk is not.
other_pool() {
  case $(disk_image "$1" vda) in
    volumes-hdd/*) echo volumes-ssd ;;
    *) echo volumes-hdd ;;
  esac
}

# An open job that nobody runs, as after a crash: $JOB.
provide_open_job() {
  remember_jobs
  start_swap web2 vda "$(other_pool web2)/web2-$((++provided))" --create --engine mirror --bandwidth 4M
  wait_for_job
  until_true 60 copied_some
  kill -KILL "$swap_pid"
  wait "$swap_pid" 2>/dev/null || true
  JOB=$job
  until_true 45 watches_are_settled
}
provided=0

# A request in the queue; it names the image FROM: $REQUEST.
provide_request() {
  local uuid queue=$S/spool/queue
  uuid=$(virsh domuuid web2 | tr -d '\n')
  REQUEST=$(printf '%012x' "$((RANDOM * RANDOM))")
  jq -n --arg id "$REQUEST" --arg uuid "$uuid" --arg pool "${1%/*}" --arg image "${1#*/}" \
    '{schema: 1, id: $id, created_ms: (now * 1000 | floor), origin: "operator", domain: {uuid: $uuid, name: "web2"},
      disk: "vda", source: {pool: $pool, namespace: "", image: $image}, swap: {target: "volumes-ssd/asked", create: true}}' \
    >"$queue/.$REQUEST"
  mv "$queue/.$REQUEST" "$queue/$uuid.vda.json"
}

# One that has failed.
provide_failed_request() {
  provide_request volumes-hdd/another
  poolshift worker --once
  assert_exit 0
  compgen -G "$S/spool/failed/*-$REQUEST.json" >/dev/null || fail "request $REQUEST did not fail"
}

job_is_open() { [[ -n ${JOB:-} && ! $(journal_phase "$S/jobs/$JOB.journal") =~ ^(done|undone)$ ]]; }

# What the stage must have for this command, if it has not.
provide_for() {
  case $1 in
    *'recover JOB'*) job_is_open || provide_open_job ;;
    *'status JOB'* | *'jobs/JOB'*) [[ -n ${JOB:=$(newest_job)} ]] || provide_open_job ;;
    *'--retry REQUEST'*) provide_failed_request ;;
    *'--remove REQUEST'*) provide_request "$(disk_image web2 vda)" ;;
  esac
}

# --- the examples ----------------------------------------------------------------------------------------------------

examples_of() { awk -f "$tests/docs/examples.awk" "$root/$1"; }

# why_not_run COMMAND: the reason; fails when it is to be run.
why_not_run() {
  local entry
  for entry in "${kNotRun[@]}"; do
    if [[ $1 =~ ${entry%|*} ]]; then
      echo "${entry##*|}"
      return 0
    fi
  done
  return 1
}

# expected_of COMMAND: the exit statuses of which it must have one.
expected_of() {
  if [[ $1 =~ '# '.*'exit status '(.*) ]]; then
    tr -cs 0-9 ' ' <<<"${BASH_REMATCH[1]}"
  else
    echo 0
  fi
}

in_another_shell() { [[ $1 == *'# in another shell'* ]]; }

# with_names COMMAND: JOB and REQUEST replaced, and where the hook would be installed.
with_names() {
  local command=" $1"
  command=${command//[ ]JOB/ ${JOB:-}}
  command=${command//jobs\/JOB/jobs/${JOB:-}}
  command=${command//[ ]REQUEST/ ${REQUEST:-}}
  command=${command//\/usr\/libexec\/poolshift\/poolshift-qemu-hook/$kHook}
  echo "${command# }"
}

# This shell becomes one as it is at a terminal, where the programs are those of the stack.
# shellcheck disable=SC2317
as_an_operator() {
  trap - ERR
  set +eEu +o pipefail
  shopt -u nullglob
  poolshift() { "$kPoolshift" "$@"; }
  rbd() { command rbd -c "$STACK_CEPH_CONF" "$@"; }
  ceph() { command ceph -c "$STACK_CEPH_CONF" "$@"; }
  virsh() { command virsh "$@"; }
}

# ended FILE:LINE COMMAND STATUS
ended() {
  local expected
  expected=$(expected_of "$2")
  [[ " $expected " == *" $3 "* ]] || fail "$1: exit status $3 instead of ${expected% }: $2"
}

job_is_at_work() { [[ $(newest_job) != "$1" ]] && job=$(newest_job) && copied_some 0; }

# run_document FILE: all of its examples.
run_document() {
  local kind line text next=() lines=() i count=0 why before pid where background='' background_where='' target=''
  JOB='' REQUEST=''
  mapfile -t lines < <(examples_of "$1")
  ((${#lines[@]} > 0)) || fail "$1 has no examples"
  for ((i = 0; i < ${#lines[@]}; i++)); do
    IFS=$'\t' read -r kind line _ text <<<"${lines[i]}"
    where=$1:$line
    case $kind in
      file)
        target=$text
        [[ $target == /* ]] || target=$T/$target
        mkdir -p "$(dirname -- "$target")"
        : >"$target"
        continue
        ;;
      text)
        printf '%s\n' "$(cut -f 4- <<<"${lines[i]}")" >>"$target"
        continue
        ;;
    esac
    if why=$(why_not_run "$text"); then
      say "$where: not run, $why: $text"
      continue
    fi
    count=$((count + 1))
    # The other shell's commands are over: now the first one may end.
    if [[ -n $background ]] && ! in_another_shell "$text"; then await_background; fi
    [[ -n $background ]] || provide_for "$text"
    IFS=$'\t' read -r -a next <<<"${lines[i + 1]:-}"
    say "$where: $text"
    if [[ -z $background ]] && in_another_shell "${next[3]:-}"; then
      before=$(newest_job)
      (
        as_an_operator
        eval "$(with_names "$text")"
      ) </dev/null &
      pid=$!
      at_end end_process "$pid"
      background=$text background_where=$where
      until_true 60 job_is_at_work "$before" || fail "$where: no job came to copy anything: $text"
      JOB=$(newest_job)
      continue
    fi
    run_example "$where" "$text"
  done
  [[ -z $background ]] || await_background
  if [[ -e $T/poolshift.conf ]]; then
    say "$1: its poolshift.conf"
    POOLSHIFT_CONFIG=$T/poolshift.conf poolshift status
    assert_exit 0
  fi
  ((count > 0)) || say "$1: nothing of it can be run here"
  say "$1: $count commands"
}

await_background() {
  local status=0
  wait "$pid" || status=$?
  ended "$background_where" "$background" "$status"
  background=''
  JOB=''
}

# run_example WHERE COMMAND: what it assigns is there for the next one.
run_example() {
  local status=0
  (
    as_an_operator
    # shellcheck source=/dev/null
    [[ ! -e $T/variables ]] || . "$T/variables"
    eval "$(with_names "$2")"
    code=$?
    # shellcheck disable=SC2154 # what examples call so
    declare -p report uuid >"$T/variables" 2>/dev/null
    exit "$code"
  ) </dev/null || status=$?
  ended "$1" "$2" "$status"
  # A person is slower than a QEMU that ends.
  case $2 in 'virsh destroy '*) until_true 45 watches_are_gone "${2##* }" ;; esac
}

watches_are_gone() { has_watchers "$(disk_image "$1" vda --inactive)" 0; }

# --- the documents ---------------------------------------------------------------------------------------------------

kOwnTests=(README.md "$kGuide" docs/man/poolshift.8.rst docs/man/poolshift.7.rst docs/man/libpoolshift.3.rst)

test_readme() {
  set_stage
  run_document README.md
}

test_operators_guide() {
  set_stage
  run_document "$kGuide"
}

test_poolshift_8() {
  set_stage
  run_document docs/man/poolshift.8.rst
}

test_poolshift_7() {
  set_stage
  run_document docs/man/poolshift.7.rst
}

# Every other page that has examples.
test_other_pages() {
  local page tried=0
  for page in "$root"/docs/man/*.rst; do
    page=docs/man/${page##*/}
    [[ " ${kOwnTests[*]} " != *" $page "* ]] || continue
    [[ -n $(examples_of "$page") ]] || continue
    set_stage
    run_document "$page"
    tried=$((tried + 1))
  done
  ((tried > 0)) || fail "no page was tried"
}

# The program in libpoolshift(3), built as the page says, makes a swap; asked again it is refused.
test_libpoolshift_3() {
  local program=$T/program options
  set_stage
  examples_of docs/man/libpoolshift.3.rst | sed -n 's/^text\t[0-9]*\t[0-9]*\t//p' >"$program.c"
  cc -std=c99 -Wall -Wextra -Werror -I"$root/plugin/include" -o "$program" "$program.c" "$kLibrary" -Wl,--allow-shlib-undefined
  options=$(jq -cn --arg uri "$STACK_LIBVIRT_URI" --arg overlays "$POOLSHIFT_OVERLAY_DIR" --arg guardian "$POOLSHIFT_GUARDIAN" \
    '{schema: 1, connect: $uri, overlay_dir: $overlays, guardian: $guardian}')
  example() {
    status=0
    LD_LIBRARY_PATH=${kLibrary%/*} "$program" "$options" \
      '{"schema":1,"domain":"web1","disk":"vda","target":"volumes-ssd/web1","create":true}' >"$T/out" || status=$?
    tail -n 1 "$T/out" >"$T/report.json"
  }
  example
  assert_exit 0
  assert_report '.state == "done" and .guest_on == "target"'
  assert_on_target web1 vda volumes-hdd/web1 volumes-ssd/web1
  example
  assert_exit 3
  assert_report '.state == "refused"'
}

# An entry that no command matches is one that nobody needs any more.
test_list_of_what_is_not_run() {
  local entry
  for page in README.md "$kGuide" docs/man/*.rst; do
    (cd "$root" && examples_of "$page") | sed -n 's/^command\t[0-9]*\t[0-9]*\t//p'
  done >"$T/commands"
  for entry in "${kNotRun[@]}"; do
    grep -Eq -- "${entry%|*}" "$T/commands" || fail "no example is like '${entry%|*}'"
  done
}

run_tests setup
