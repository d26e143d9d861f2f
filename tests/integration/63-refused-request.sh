#!/bin/bash
# Requests that cannot be understood: exit 2 with a sentence, and nothing is changed.
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/functions.sh"

misunderstood() {
  poolshift "$@"
  assert_exit 2
  [[ -s $T/err ]] || fail "nothing on stderr"
}

long() { printf "%0$1d" 0; }

test_command_lines() {
  world "$T/world.before"
  misunderstood swap
  misunderstood swap --domain x --disk vda
  misunderstood swap --domain x --disk vda --to volumes-ssd
  misunderstood swap --domain x --disk vda --to volumes-ssd/
  misunderstood swap --domain x --disk vda --to a/b/c/d
  misunderstood swap --domain x --disk vda --to volumes-ssd/x --engine telepathy
  misunderstood swap --domain x --disk vda --to volumes-ssd/x --source delete
  misunderstood swap --domain x --disk vda --to volumes-ssd/x --bandwidth fast
  misunderstood swap --domain x --disk vda --to volumes-ssd/x --bandwidth -1
  misunderstood swap --domain x --disk vda --to volumes-ssd/x --bandwidth 99999999999999999999G
  misunderstood swap --domain x --disk vda --to volumes-ssd/x --colour red
  misunderstood swap --domain '' --disk vda --to volumes-ssd/x
  misunderstood swap --domain $'\xff\xfe' --disk vda --to volumes-ssd/x
  misunderstood swap --domain x --disk vda --to $'volumes-ssd/\xc3('
  misunderstood swap --domain "$(long 300)" --disk vda --to volumes-ssd/x
  misunderstood swap --domain x --disk "$(long 300)" --to volumes-ssd/x
  misunderstood swap --domain x --disk vda --to "volumes-ssd/$(long 3000)"
  misunderstood recover --job x
  misunderstood frobnicate
  world "$T/world.after"
  diff -u "$T/world.before" "$T/world.after" || fail "something was changed"
}

# Through the C ABI, where the JSON is the caller's.
test_json() {
  unchanged_by /usr/bin/python3 "$here/bad_requests.py" "$kLibrary" "$STACK_LIBVIRT_URI" "$S"
}

run_tests
