#!/bin/bash
# The command as a shell sees it, where neither libvirtd nor a cluster is needed: exit codes, which stream gets what,
# and that with --json the last line on stdout is one object.
#
#   check_usage.sh POOLSHIFT
set -uo pipefail

poolshift=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export POOLSHIFT_STATE_DIR=$folder/state
export POOLSHIFT_CONFIG=$folder/empty.conf # not that of this machine
: >"$POOLSHIFT_CONFIG"
export LIBVIRT_DEFAULT_URI="qemu+unix:///system?socket=$folder/no-libvirtd"
failed=0

fail() {
  echo "$*" >&2
  failed=1
}

# run EXIT_CODE ARGUMENT...: runs the command; leaves $folder/out and $folder/err.
run() {
  local expected=$1 code
  shift
  "$poolshift" "$@" >"$folder/out" 2>"$folder/err" </dev/null
  code=$?
  [ "$code" = "$expected" ] || fail "poolshift $*: exit code $code, not $expected: $(cat "$folder/err")"
}

out_has() { grep -qF -- "$1" "$folder/out" || fail "stdout lacks '$1': $(cat "$folder/out")"; }
err_has() { grep -qF -- "$1" "$folder/err" || fail "stderr lacks '$1': $(cat "$folder/err")"; }
out_is_empty() { [ ! -s "$folder/out" ] || fail "stdout is not empty: $(cat "$folder/out")"; }
last_line_is_json_with() {
  tail -n 1 "$folder/out" | python3 -c '
import json, sys
document = json.load(sys.stdin)
for key in sys.argv[1:]:
    document = document[key]' "$@" || fail "the last line on stdout has no $*: $(tail -n 1 "$folder/out")"
}

swap=(swap --domain guest --disk vda --to pool/image)

run 2
err_has 'Usage: poolshift COMMAND'
out_is_empty
run 0 --help
out_has 'Exit codes: 0 done; 1 internal error; 2 usage; 3 refused, nothing changed; 4 failed and undone;'
run 0 --version
out_has 'ABI 1.'
for command in swap check status cancel set recover rescue policy doctor; do
  run 0 "$command" --help
  out_has "Usage: poolshift $command"
done

run 2 swpa
err_has "Did you mean 'swap'?"
run 2 --json status
err_has 'The command comes first.'
run 2 $'\xff'
run 2 rescue "${swap[@]:1}" --create
err_has "'--create' has no meaning here"
run 2 "${swap[@]}" surplus
out_is_empty
err_has "'surplus' is one argument too many"
run 2 "${swap[@]}" --domain $'\xff\xfe'
run 2 "${swap[@]}" --bandwidth 5x --json
last_line_is_json_with error message
run 2 swap --domain guest --disk vda --to image-without-pool --json
last_line_is_json_with error advice
run 2 set 0123456789ab
run 2 cancel
run 2 status one two

run 0 status
out_has 'no jobs'
run 0 status --json
last_line_is_json_with jobs
run 3 status 0123456789ab
run 3 status ../../etc/passwd --json
last_line_is_json_with error code
run 3 cancel 0123456789ab
run 3 set 0123456789ab --bandwidth 50M
run 0 recover
out_has 'nothing to recover'
run 5 doctor --patience 1 --json
last_line_is_json_with findings
# nova_doctor_says COMMAND...: what a poolshift-nova-doctor that does this adds.
nova_doctor_says() {
  printf '#!/bin/sh\n%s\n' "$*" >"$folder/bin/poolshift-nova-doctor"
  chmod 755 "$folder/bin/poolshift-nova-doctor"
  PATH=$folder/bin:$PATH run 5 doctor --patience 1 --nova-conf "$folder/nova.conf" --json
}
mkdir "$folder/bin"
nova_doctor_says 'cat >&2; echo "{\"findings\":[{\"name\":\"cinder_types\",\"result\":\"pass\",\"found\":\"$2\",\"do\":\"\"}]}"'
out_has "\"name\":\"cinder_types\",\"result\":\"pass\",\"found\":\"$folder/nova.conf\""
err_has '{"schema":1,"disks":[]}'
nova_doctor_says 'exit 3'
out_has "nova.conf' ended with 3"
nova_doctor_says 'kill -9 $$'
out_has 'was ended by signal 9'
nova_doctor_says 'echo rubbish'
out_has 'gave no findings'
nova_doctor_says 'yes'
out_has 'wrote more than'
rm "$folder/bin/poolshift-nova-doctor"
PATH=$folder/bin run 5 doctor --patience 1 --nova-conf "$folder/nova.conf" --json
out_has 'cannot be started: No such file or directory'

run 3 check --domain guest --disk vda --to pool/image --patience 1 --json
last_line_is_json_with error code
run 5 status --state-dir /dev/null/x

# A command without stdout and stderr must not write its messages into a file of the library.
"$poolshift" status >&- 2>&- </dev/null || fail "status fails when stdout and stderr are closed"
if [ -n "$(find "$POOLSHIFT_STATE_DIR" -type f -size +0)" ]; then fail "status left a file in the state folder"; fi

# The rules by which disks move by themselves.
export POOLSHIFT_POLICY_DIR=$folder/policy
run 2 policy
err_has "Say 'poolshift policy check'."
run 2 policy chekc
run 0 policy check
out_has 'there are no rules'
mkdir "$folder/policy"
echo '{"schema":1,"rules":[{"name":"one","match":{"pool":"hdd"},"swap":{"pool":"ssd"}}]}' >"$folder/policy/10.json"
run 0 policy check --json
last_line_is_json_with rules
echo '{"schema":1,"colour":"red"}' >"$folder/policy/20.json"
run 2 policy check
out_has "rule 'one'"
err_has "20.json' has the unknown key 'colour'"
run 2 policy check --json
last_line_is_json_with errors
run 0 policy check "$folder/policy/10.json"
run 2 policy check "$folder/policy/10.json" "$folder/policy/10.json"
err_has "has the name 'one', which another rule has"
run 2 policy check "$folder/none.json"
run 0 policy check --policy-dir "$folder/none"

exit "$failed"
