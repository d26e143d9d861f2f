# Shell functions shared by the scripts of the test stack. To be sourced by bash.
# shellcheck shell=bash

# A stack is one folder. Everything that runs in it names that folder on its command line, so that a process can be
# proved to belong to the stack before it is signalled.
#
#   DIR/env        what tests source
#   DIR/ceph/      one folder per daemon, ceph.conf, keyring, logs, run/
#   DIR/lv/        what libvirtd sees as /etc/libvirt (etc), /run/libvirt (run), /var/{lib,log,cache}/libvirt,
#                  /etc/poolshift (poolshift-etc) and /var/lib/poolshift (poolshift-lib)
#   DIR/boot/      kernel, initramfs and helpers of the guests
#   DIR/guests/N/  domain.xml, serial.log, serial.log.times

kStackMarker=.poolshift-stack

note() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
  note "$*"
  exit 1
}

usage_error() {
  note "$*"
  exit 2
}

# wait_until SECONDS WHAT COMMAND...: polls COMMAND until it succeeds; fails, naming WHAT, when SECONDS are over.
wait_until() {
  local seconds=$1 what=$2
  shift 2
  local deadline=$((${EPOCHREALTIME/[.,]/} + seconds * 1000000))
  until "$@" >/dev/null 2>&1; do
    if ((${EPOCHREALTIME/[.,]/} > deadline)); then
      note "waited $seconds s in vain for $what"
      return 1
    fi
    sleep 0.1
  done
}

# end_tree PID: and all that it has started, which would not hear of the end of a shell that waits for it.
end_tree() {
  local child
  for child in $(cat "/proc/$1/task/"*/children 2>/dev/null); do end_tree "$child"; done
  kill -TERM "$1" 2>/dev/null || true
}

# A TCP port of 127.0.0.1 on which nobody listens. Below the range from which the kernel takes ports of clients.
free_port() {
  local port
  for _ in {1..200}; do
    port=$((15000 + RANDOM % 16000))
    if ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "$port"
      return
    fi
  done
  die "found no free port on 127.0.0.1"
}

new_uuid() { cat /proc/sys/kernel/random/uuid; }

# stack_dir DIR: the canonical folder; it must be a stack.
stack_dir() {
  local dir
  dir=$(realpath -m -- "$1")
  [[ -e $dir/$kStackMarker ]] || die "'$1' is not a test stack: run tests/stack/up first"
  echo "$dir"
}

# stack_load DIR: sources the stack's env file.
stack_load() {
  local dir
  dir=$(stack_dir "$1") || exit 1
  [[ -r $dir/env ]] || die "the stack in '$dir' is not complete: run tests/stack/down, then up"
  # shellcheck source=/dev/null
  . "$dir/env"
}

# --- processes -------------------------------------------------------------------------------------------------------

is_running() {
  local state
  [[ -r /proc/$1/stat ]] || return 1
  state=$(<"/proc/$1/stat") 2>/dev/null || return 1
  state=${state##*) }
  [[ ${state%% *} != [ZX] ]]
}

# belongs_to DIR PID: a program of the stack, or what makes one (never a shell or an editor that happens to look at it),
# one of whose arguments names DIR or a path below it.
belongs_to() {
  local dir=$1 pid=$2 comm args arg
  { read -r comm <"/proc/$pid/comm"; } 2>/dev/null || return 1
  case $comm in
    ceph-mon | ceph-mgr | ceph-osd | libvirtd | qemu-system-* | guest-clock | up | build | g++ | cc1plus) ;;
    *) return 1 ;;
  esac
  { mapfile -d '' -t args <"/proc/$pid/cmdline"; } 2>/dev/null || return 1
  # The script tests/stack/libvirtd has the daemon's name and the folder as its argument too.
  [[ $comm != libvirtd || ${args[0]-} != */bash ]] || return 1
  for arg in "${args[@]}"; do
    [[ $arg == "$dir" || $arg == "$dir"/* || $arg == *[=:\"]"$dir"/* ]] && is_running "$pid" && return 0
  done
  return 1
}

# stack_pids DIR [COMM-PATTERN]: the processes of the stack, whatever their pid files say (or do not say yet).
stack_pids() {
  local dir=$1 pattern=${2:-*} proc comm
  for proc in /proc/[0-9]*; do
    { read -r comm <"$proc/comm"; } 2>/dev/null || continue
    # shellcheck disable=SC2053
    [[ $comm == $pattern ]] || continue
    if belongs_to "$dir" "${proc#/proc/}"; then echo "${proc#/proc/}"; fi
  done
}

# pid_in_file DIR FILE: the pid in FILE if it runs and belongs to the stack.
pid_in_file() {
  local pid
  { read -r pid <"$2" || [[ -n ${pid:-} ]]; } 2>/dev/null || return 1
  [[ $pid =~ ^[0-9]+$ ]] && belongs_to "$1" "$pid" && echo "$pid"
}

none_running() {
  local pid
  for pid in "$@"; do
    ! is_running "$pid" || return 1
  done
}

# stop_pids DIR PID...: TERM, wait, then KILL; returns when all are gone.
stop_pids() {
  local dir=$1 pid
  shift
  (($# > 0)) || return 0
  for pid in "$@"; do
    if belongs_to "$dir" "$pid"; then kill -TERM "$pid" 2>/dev/null || true; fi
  done
  if ! wait_until 10 "processes $* to end" none_running "$@"; then
    kill_pids "$dir" "$@"
  fi
}

kill_pids() {
  local dir=$1 pid
  shift
  for pid in "$@"; do
    if belongs_to "$dir" "$pid"; then kill -KILL "$pid" 2>/dev/null || true; fi
  done
  wait_until 30 "killed processes $* to be gone" none_running "$@"
}

# --- Ceph ------------------------------------------------------------------------------------------------------------

# CEPH_ARGS of the caller would reach every Ceph program; a --keyring in it breaks `ceph-osd --mkfs`.
unset CEPH_ARGS CEPH_CONF

ceph_in() {
  local dir=$1
  shift
  ceph -c "$dir/ceph/ceph.conf" --connect-timeout 20 "$@"
}

start_osd() {
  local dir=$1 id=$2
  pid_in_file "$dir" "$dir/ceph/run/osd.$id.pid" >/dev/null && return 0
  ceph-osd -c "$dir/ceph/ceph.conf" -i "$id" >>"$dir/ceph/log/osd.$id.out" 2>&1 ||
    die "ceph-osd $id did not start: see '$dir/ceph/log/osd.$id.out'"
}

# all_pgs_are_clean DIR [COUNT]: every placement group is active+clean, and there are COUNT of them.
all_pgs_are_clean() {
  ceph_in "$1" status -f json |
    jq -e --argjson count "${2:-null}" '.mgrmap.available and (.pgmap.num_pgs == ($count // .pgmap.num_pgs)) and
      ([.pgmap.pgs_by_state[] | select(.state_name == "active+clean").count] | add) == .pgmap.num_pgs'
}

# --- libvirt ---------------------------------------------------------------------------------------------------------

virsh_in() {
  local dir=$1
  shift
  virsh --quiet --connect "qemu+unix:///system?socket=$dir/lv/run/libvirt-sock" "$@"
}

# The command line of a program that sees this stack's folders where libvirt's system-wide ones are.
in_stack_namespace() {
  local dir=$1
  shift
  # shellcheck disable=SC2016
  unshare --mount --propagation private bash -c '
    set -eu
    dir=$1
    shift
    while read -r from to; do mount --bind "$dir/lv/$from" "$to"; done <"$dir/lv/mounts"
    exec "$@"' - "$dir" "$@"
}

start_libvirtd() {
  local dir=$1
  pid_in_file "$dir" "$dir/lv/libvirtd.pid" >/dev/null && return 0
  in_stack_namespace "$dir" libvirtd --daemon --config "$dir/lv/etc/libvirtd.conf" \
    --pid-file "$dir/lv/libvirtd.pid" </dev/null >>"$dir/lv/libvirtd.out" 2>&1 ||
    die "libvirtd did not start: see '$dir/lv/libvirtd.out' and '$dir/lv/log/libvirtd.log'"
  wait_until 60 "libvirtd to answer" virsh_in "$dir" list
}
