#!/bin/bash
# The program poolshift-qemu-hook as libvirt calls it, with whatever may be wrong around it: but for an objection it ends
# with 0, and it ends soon.
#
#   check_hook.sh HOOK DATA-FOLDER
set -euo pipefail

hook=$1
data=$2
work=$(mktemp -d "${TMPDIR:-/tmp}/poolshift-hook.XXXXXX")
trap 'rm -rf "$work"' EXIT
export POOLSHIFT_STATE_DIR=$work/state POOLSHIFT_POLICY_DIR=$work/policy
xml=$work/web.xml
sed 's/METADATA//' "$data/web.xml" >"$xml"
failed=0

# expect CODE WHAT OPERATION [FILE]: FILE (the domain's XML) is the standard input; what the hook says is in $work/out and err.
expect() {
  local code=$1 what=$2 operation=$3 input=${4:-$xml} status=0
  timeout 8 "$hook" web "$operation" begin - <"$input" >"$work/out" 2>"$work/err" || status=$?
  if ((status != code)); then
    echo "$what: $operation ended with $status instead of $code: $(<"$work/err")"
    failed=1
  fi
}

expect_said() {
  grep -q -- "$2" "$work/err" || {
    echo "$1: no '$2' in: $(<"$work/err")"
    failed=1
  }
}

fresh() {
  chmod -R u+rwX "$work/state" "$work/policy" 2>/dev/null || true
  rm -rf "$work/state" "$work/policy"
  mkdir -p "$work/state/jobs" "$work/policy"
}
retired() {
  fresh
  cp "$data"/jobs/*.journal "$work/state/jobs"
}

operations='prepare start started stopped release migrate restore reconnect attach nonsense'

expect 0 'no folders at all' prepare
fresh
for operation in $operations ''; do expect 0 'nothing to do' "$operation"; done

retired
for operation in prepare migrate; do
  expect 1 'a retired source' "$operation"
  [[ $(wc -l <"$work/err") == 1 && ! -s $work/out ]] || { echo "more than one line: $(<"$work/err")"; failed=1; }
  expect_said 'a retired source' 'out of date'
done
for operation in start started stopped release restore reconnect attach nonsense ''; do
  expect 0 'a retired source' "$operation"
done

# Only the program itself can refuse a reconnect, and it never does: not without a standard input, not with less arguments.
"$hook" web reconnect <&- >&- 2>&- || { echo "reconnect without descriptors: $?"; failed=1; }
"$hook" web reconnect begin - </dev/full || { echo "reconnect: $?"; failed=1; }

# What is passed over: each lets the domain start.
expect 0 'no XML' prepare /dev/null
expect_said 'no XML' 'not the XML of a domain'
head -c 17000000 /dev/zero | tr '\0' ' ' >"$work/large"
expect 0 'XML of 17 MB' prepare "$work/large"
expect_said 'XML of 17 MB' 'longer than'
expect 0 'XML without end' prepare /dev/zero
expect_said 'XML without end' 'longer than'
head -c 100000 /dev/urandom >"$work/random"
expect 0 'random bytes' prepare "$work/random"
timeout 8 "$hook" web prepare begin - <&- 2>/dev/null || { echo "a closed standard input: $?"; failed=1; }

damaged() {
  expect 0 "$1" prepare
  expect_said "$1" "$2"
}
journal=$work/state/jobs/00000000000a.journal
retired; : >"$journal"; damaged 'an empty journal' 'is empty'
retired; truncate -s 100 "$journal"; damaged 'a cut journal' 'is empty\|has no'
retired; sed -i '$s/web/wex/' "$journal"; damaged 'a changed journal' 'wrong checksum'
retired; rm "$journal"; mkfifo "$journal"; damaged 'a FIFO' 'not a regular file'
retired; rm "$journal"; mkdir "$journal"; damaged 'a folder' 'not a regular file'
retired; mv "$journal" "$work/elsewhere"; ln -s "$work/elsewhere" "$journal"; damaged 'a link' 'symbolic link'
retired; chmod 666 "$journal"; damaged 'a journal that all may write to' 'every user may write'
retired; chmod 777 "$work/state/jobs"; damaged 'a folder that all may write to' 'every user may write'
retired; rm -r "$work/state/jobs"; : >"$work/state/jobs"; damaged 'a file for a folder' 'list the folder'
if [[ $EUID == 0 ]]; then
  retired; chown 12345 "$journal"; damaged "somebody else's journal" 'belongs to user 12345'
  # The folder of the user who runs the swaps.
  chown 12345 "$work/state/jobs"
  expect 1 "the swapping user's folder" prepare
fi
# One that is damaged hides no other.
retired; : >"$work/state/jobs/00000000000b.journal"
expect 1 'a damaged journal beside' prepare

rule='{"schema":1,"rules":[{"name":"r","match":{"pool":"hdd","image":"web"},"swap":{"pool":"ssd"}}]}'
policy=$work/policy/a.json
queued() { [[ $(find "$work/state/spool/queue" -name '*.json' 2>/dev/null | wc -l) == "$1" ]] || { echo "$2: not $1 in the queue"; failed=1; }; }
fresh; echo "$rule" >"$policy"
expect 0 'a policy' started
queued 1 'a policy'
expect 0 'a policy, once more' started
queued 1 'a policy, once more'

no_policy() {
  expect 0 "$1" started
  expect_said "$1" "$2"
  queued 0 "$1"
}
fresh; echo '{' >"$policy"; no_policy 'a broken policy' 'is not JSON'
fresh; { echo "$rule"; head -c 300000 /dev/zero | tr '\0' ' '; } >"$policy"; no_policy 'a large policy' 'longer than'
fresh; mkfifo "$policy"; no_policy 'a FIFO for a policy' 'not a regular file'
fresh; echo "$rule" >"$work/elsewhere"; ln -s "$work/elsewhere" "$policy"; no_policy 'a link to a policy' 'symbolic link'
fresh; echo "$rule" >"$policy"; chmod 666 "$policy"; no_policy 'a policy that all may write to' 'every user may write'
if [[ $EUID == 0 ]]; then
  fresh; echo "$rule" >"$policy"; chown 12345 "$policy"; no_policy "somebody else's policy" 'belongs to user 12345'
  fresh; echo "$rule" >"$policy"; chown 12345 "$work/policy"; no_policy "somebody else's folder" 'belongs to user 12345'
fi
# The spool cannot be written to.
fresh; echo "$rule" >"$policy"; : >"$work/state/spool"
expect 0 'no spool' started
expect_said 'no spool' 'could not be asked for'
if [[ $EUID == 0 ]] && mkdir "$work/full" && mount -t tmpfs -o size=16k tmpfs "$work/full" 2>/dev/null; then
  fresh; echo "$rule" >"$policy"
  head -c 100000 /dev/zero >"$work/full/filler" 2>/dev/null || true
  POOLSHIFT_STATE_DIR=$work/full expect 0 'a full disk' started
  umount "$work/full"
  expect_said 'a full disk' 'could not be asked for'
fi

"$hook" --help | grep -q '^Usage' || { echo 'no --help'; failed=1; }
"$hook" --version | grep -q poolshift-qemu-hook || { echo 'no --version'; failed=1; }
status=0
"$hook" >/dev/null 2>&1 || status=$?
((status == 2)) || { echo "without arguments it ends with $status"; failed=1; }
exit "$failed"
