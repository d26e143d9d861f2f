#!/bin/bash
# What is logged of jobs and refused requests gets to systemd's journal with its fields, and nothing is amiss where there
# is no journal.
#
#   check_journald.sh POOLSHIFT PAGE.rst
set -euo pipefail

poolshift=$1 page=$2
tests=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/poolshift-journald.XXXXXX")
trap 'rm -rf "$work"' EXIT
export POOLSHIFT_STATE_DIR=$work/state LIBVIRT_DEFAULT_URI="qemu+unix:///system?socket=$work/no-libvirtd"
export POOLSHIFT_CONFIG=$work/empty.conf
: >"$POOLSHIFT_CONFIG"

if [[ $EUID != 0 ]] || ! unshare --mount true 2>/dev/null; then
  echo "skipped: needs root and mount namespaces"
  exit 77
fi

fail() {
  echo "$*" >&2
  cat "$work/journal" >&2
  exit 1
}

# listened EXIT_CODE ARGUMENT...: runs the command; what was sent to the journal is in $work/journal.
listened() {
  local expected=$1 code=0
  shift
  "$tests/journald/listen" "$work/journal" "$poolshift" "$@" >"$work/out" 2>&1 </dev/null || code=$?
  [[ $code == "$expected" ]] || fail "poolshift $*: exit code $code, not $expected: $(<"$work/out")"
}

# one_message FILTER: exactly one is so.
one_message() {
  local found
  found=$(jq -s "[.[] | select($1)] | length" "$work/journal")
  [[ $found == 1 ]] || fail "$found messages, not 1, are: $1"
}

swap=(swap --domain 'a "guest"' --disk vda --from hdd/web --to ssd/web --patience 1)
listened 3 "${swap[@]}"
one_message '.POOLSHIFT_STATE == "refused" and .POOLSHIFT_DOMAIN == "a \"guest\"" and .POOLSHIFT_DISK == "vda" and
  .POOLSHIFT_SOURCE == "hdd/web" and .POOLSHIFT_TARGET == "ssd/web" and .PRIORITY == "4" and
  .SYSLOG_IDENTIFIER == "poolshift" and (has("POOLSHIFT_JOB") or has("MESSAGE_ID") or has("CODE_FILE") | not) and
  (.MESSAGE | contains("hdd/web -> ssd/web: refused: Cannot connect"))'

# A job that nobody runs, and libvirtd does not answer: it is held.
mkdir -p "$work/state/jobs"
"$tests/packaging/journal.py" 0123456789ab copy >"$work/state/jobs/0123456789ab.journal"
held=$(sed -n 's/.*journalctl MESSAGE_ID=\([0-9a-f]\{32\}\).*/\1/p' "$page")
[[ -n $held ]] || fail "'$page' does not tell the MESSAGE_ID of a held job"
listened 5 recover --patience 1
one_message '.POOLSHIFT_JOB == "0123456789ab" and .MESSAGE_ID == "'"$held"'" and .POOLSHIFT_STATE == "held" and
  .POOLSHIFT_PHASE == "held_on_source" and .POOLSHIFT_GUEST_ON == "source" and .POOLSHIFT_DOMAIN == "web" and
  .POOLSHIFT_SOURCE == "hdd/a" and .POOLSHIFT_TARGET == "ssd/a" and .POOLSHIFT_ENGINE == "mirror" and .PRIORITY == "3"'
one_message '.POOLSHIFT_JOB == "0123456789ab" and .PRIORITY == "6" and (.MESSAGE | endswith("copy -> held_on_source"))'

# Every field that is sent is in the page, and the other way round.
sent=$(jq -rs 'map(keys) | add | unique | .[] | select(startswith("POOLSHIFT_"))' "$work/journal")
told=$(grep -oE '^POOLSHIFT_[A-Z_]+=$' "$page" | tr -d = | sort)
[[ $sent == "$told" ]] || fail "fields that are sent: '$sent'; in the page: '$told'"

# Without a journal.
cp "$work/out" "$work/with"
"$tests/packaging/journal.py" 0123456789ab copy >"$work/state/jobs/0123456789ab.journal"
code=0
"$poolshift" recover --patience 1 >"$work/out" 2>&1 </dev/null || code=$?
[[ $code == 5 ]] || fail "without a journal: exit code $code"
diff "$work/with" "$work/out" || fail "without a journal other things are said"
