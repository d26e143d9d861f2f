#!/bin/bash
# The example of libpoolshift(3): it is a strict C99 program, and what it is given comes to the library.
# usage: check_example.sh SOURCE-FOLDER CC LIBRARY
set -euo pipefail

root=$1 cc=$2 library=$3
work=$(mktemp -d "${TMPDIR:-/tmp}/poolshift-example.XXXXXX")
trap 'rm -rf "$work"' EXIT

awk -f "$root/tests/docs/examples.awk" "$root/docs/man/libpoolshift.3.rst" |
  sed -n 's/^text\t[0-9]*\t[0-9]*\t//p' >"$work/example.c"
"$cc" -std=c99 -pedantic-errors -Wall -Wextra -Werror -I"$root/plugin/include" -o "$work/example" "$work/example.c" \
  "$library" -Wl,--allow-shlib-undefined -Wl,-rpath,"$(dirname -- "$library")"

# run EXIT-CODE WORD REQUEST: what is printed has WORD in it.
run() {
  local code=0
  "$work/example" "{\"schema\":1,\"connect\":\"qemu+unix:///system?socket=$work/no-libvirtd\",\"state_dir\":\"$work/state\",
    \"patience_s\":1}" "$3" >"$work/out" 2>&1 || code=$?
  [[ $code == "$1" ]] || { echo "exit code $code instead of $1: $(<"$work/out")"; exit 1; }
  grep -q "$2" "$work/out" || { echo "no '$2' in: $(<"$work/out")"; exit 1; }
}
run 3 '"unreachable"' '{"schema":1,"domain":"web1","disk":"vda","target":"volumes-ssd/web1","create":true}'
run 2 '"invalid"' '{"schema":1,"domain":"web1"}'
