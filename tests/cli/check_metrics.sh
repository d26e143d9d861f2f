#!/bin/bash
# 'poolshift metrics' over jobs of all states and a spool: promtool takes it, the numbers are right, and the manual page
# lists every metric. The example alerts say what they are meant to say.
#
#   check_metrics.sh POOLSHIFT PAGE.rst ALERTS.yml
set -euo pipefail

poolshift=$1 page=$2 alerts=$3
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/poolshift-metrics.XXXXXX")
trap 'rm -rf "$work"' EXIT
state=$work/state
export POOLSHIFT_STATE_DIR=$state POOLSHIFT_CONFIG=$work/empty.conf
: >"$POOLSHIFT_CONFIG"

fail() {
  echo "$*" >&2
  exit 1
}
journal() { "$here/../packaging/journal.py" "$@" >"$state/jobs/$1.journal"; }
has() { grep -qxF -- "$1" "$work/text" || fail "no line '$1': $(grep "^${1%%[ {]*}" "$work/text")"; }

mkdir -p "$state/jobs" "$state/spool"/{queue,running,failed}
pause='seconds={"validate":0.5,"prepare":0,"copy":0,"pivot":1,"hydrate":3,"retire":0,"undo":0,"pause":0.4}'
journal 00000000000a 'done' engine='"handover"' copied_bytes=1000 "$pause"
journal 00000000000b 'done' copied_bytes=24
journal 00000000000c undone
journal 00000000000d undone cancelled=true
journal 0000000000ea held_on_target domain_name='"a \"b\" \\ c"' disk='"vda"' changed_wall_ms="$((($(date +%s) - 100) * 1000))"
journal 0000000000eb pause engine='"handover"' # nobody runs it
journal 0000000000ec copy disk='"vdb"'
echo '{"step":"copying","done_bytes":10,"total_bytes":40,"bytes_per_s":1,"left_s":30}' >"$state/jobs/0000000000ec.progress"
exec {runs}<>"$state/jobs/0000000000ec.journal"
flock "$runs" # whoever holds it runs the job
echo damaged >"$state/jobs/0000000000ed.journal"
touch "$state/spool/queue/"{one,two,three}.json "$state/spool/running/four.json"
touch "$state/spool/failed/"{1-x.json,removed-y.json,bad-z,bad-z.json}

"$poolshift" metrics >"$work/text"
has 'poolshift_jobs{state="open",engine="mirror"} 1'
has 'poolshift_jobs{state="held",engine="mirror"} 1'
has 'poolshift_jobs{state="held",engine="handover"} 1'
has 'poolshift_jobs{state="held",engine="unknown"} 1'
has 'poolshift_jobs_ended_total{state="done",engine="handover"} 1'
has 'poolshift_jobs_ended_total{state="done",engine="mirror"} 1'
has 'poolshift_jobs_ended_total{state="undone",engine="mirror"} 1'
has 'poolshift_jobs_ended_total{state="cancelled",engine="mirror"} 1'
has 'poolshift_copied_bytes_total{engine="handover"} 1000'
has 'poolshift_copied_bytes_total{engine="mirror"} 24'
has 'poolshift_phase_duration_seconds_sum{phase="hydrate",engine="handover"} 3'
has 'poolshift_pause_duration_seconds_bucket{le="0.3"} 0'
has 'poolshift_pause_duration_seconds_bucket{le="0.5"} 1'
has 'poolshift_requests{state="waiting"} 3'
has 'poolshift_requests{state="running"} 1'
has 'poolshift_requests{state="failed"} 2'
has 'poolshift_job_done_bytes{job_id="0000000000ec",domain="web",disk="vdb"} 10'
has 'poolshift_job_expected_bytes{job_id="0000000000ec",domain="web",disk="vdb"} 40'
grep -qF 'poolshift_job_info{job_id="0000000000ea",domain="a \"b\" \\ c",disk="vda"' "$work/text" || fail "no escaped domain"
# The oldest held one is 0000000000eb, which journal.py says has not changed since 1970.
age=$(sed -n 's/^poolshift_oldest_held_age_seconds //p' "$work/text")
awk -v age="$age" -v now="$(date +%s)" 'BEGIN { exit !(age > now - 60 && age <= now + 1) }' || fail "age of the oldest: $age"
rm "$state/jobs/0000000000eb.journal"
"$poolshift" metrics >"$work/text"
age=$(sed -n 's/^poolshift_oldest_held_age_seconds //p' "$work/text")
awk -v age="$age" 'BEGIN { exit !(age >= 100 && age < 160) }' || fail "age of the oldest: $age"
# Once it has ended a job has no series of its own.
grep -E 'job_id="00000000000[a-d]"' "$work/text" && fail "an ended job has a series of its own"

named=$(sed -n 's/^# TYPE \([a-z_]*\) .*/\1/p' "$work/text" | sort)
told=$(grep -oE '^poolshift_[a-z_]+' "$page" | sort -u)
[[ $named == "$told" ]] || fail "metrics of the program: '$named'; in the page: '$told'"

# The file: all at once, for every user to read, whatever the umask.
(umask 077 && "$poolshift" metrics --write --metrics-file "$work/x.prom")
[[ $(stat -c %a "$work/x.prom") == 644 ]] || fail "mode $(stat -c %a "$work/x.prom")"
diff <(sed '/_timestamp_seconds\|_age_seconds/d' "$work/text") <(sed '/_timestamp_seconds\|_age_seconds/d' "$work/x.prom") ||
  fail "the file has other metrics"
ln "$work/x.prom" "$work/before"
"$poolshift" metrics --write --metrics-file "$work/x.prom"
[[ ! $work/x.prom -ef $work/before ]] || fail "the file was written to where a reader may be"
left=$(find "$work" -maxdepth 1 -name '.*' -type f)
[[ -z $left ]] || fail "left behind: $left"
code=0
"$poolshift" metrics --write --metrics-file "$work/none/x.prom" 2>"$work/err" || code=$?
[[ $code == 3 && $(<"$work/err") == *"there is no folder for '$work/none/x.prom'"* ]] || fail "$code: $(<"$work/err")"

command -v promtool >/dev/null || { echo "skipped: there is no promtool (package prometheus)"; exit 77; }
promtool check metrics <"$work/text" >"$work/said" 2>&1 || fail "promtool: $(<"$work/said")"
[[ ! -s $work/said ]] || fail "promtool is not content: $(<"$work/said")"
promtool check rules "$alerts" >"$work/said" 2>&1 || fail "promtool: $(<"$work/said")"
sed "s|ALERTS|$alerts|" "$here/alerts.yml" >"$work/alerts.yml"
promtool test rules "$work/alerts.yml" >"$work/said" 2>&1 || fail "promtool: $(<"$work/said")"
# What the alerts ask for is there.
grep -oE '\bpoolshift_[a-z_]+' "$alerts" | sort -u | while read -r name; do
  grep -q "^$name" "$work/text" || fail "the alerts ask for $name, which there is none of"
done
