#!/bin/bash
# systemd-analyze finds nothing wrong with the units, and they name folders that the library uses.
# usage: check_units.sh UNITS-FOLDER FOLDER-OF-CONFIGURED-UNITS POOLSHIFT
set -euo pipefail

units=$1 configured=$2 poolshift=$3
service=$configured/poolshift-worker.service
work=$(mktemp -d "${TMPDIR:-/tmp}/poolshift-units.XXXXXX")
trap 'rm -rf "$work"' EXIT

cp "$units/poolshift-worker.path" "$units/poolshift-metrics.timer" "$work"
grep -q '^ExecStart=/.*/poolshift worker$' "$service" || { echo "the service does not start the worker"; exit 1; }
grep -q '^ExecStart=/.*/poolshift metrics --write$' "$configured/poolshift-metrics.service" ||
  { echo "the service does not write metrics"; exit 1; }
# Not installed here: the program that was built stands for it.
for name in worker metrics; do
  sed "s|^ExecStart=[^ ]*|ExecStart=$poolshift|" "$configured/poolshift-$name.service" >"$work/poolshift-$name.service"
done
sed -n 's/^DirectoryNotEmpty=//p' "$work/poolshift-worker.path" | while read -r folder; do
  grep -q "^d $folder " "$units/poolshift.tmpfiles" || { echo "nobody makes $folder"; exit 1; }
done
state=$work/state
: >"$work/empty.conf"
"$poolshift" worker --config "$work/empty.conf" --once --state-dir "$state" --connect test:///default >/dev/null
sed -n 's|^d /var/lib/poolshift/\(spool[^ ]*\) .*|\1|p' "$units/poolshift.tmpfiles" | while read -r folder; do
  [[ -d $state/$folder ]] || { echo "the worker has no folder $folder"; exit 1; }
  [[ $(stat -c %a "$state/$folder") == 2770 ]] || { echo "$folder has mode $(stat -c %a "$state/$folder")"; exit 1; }
done

command -v systemd-analyze >/dev/null || { echo "skipped: there is no systemd-analyze"; exit 77; }
# It says what it has to say about other units of the machine too.
systemd-analyze verify --man=no "$work"/poolshift-* >"$work/said" 2>&1 || true
! grep 'poolshift' "$work/said" || exit 1
