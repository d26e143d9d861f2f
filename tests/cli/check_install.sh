#!/bin/bash
# `cmake --install` with DESTDIR: what is installed runs, and a caller builds against it.
# usage: check_install.sh BUILD-FOLDER CMAKE CC
set -euo pipefail

build=$1 cmake=$2 cc=$3
work=$(mktemp -d "${TMPDIR:-/tmp}/poolshift-install.XXXXXX")
trap 'rm -rf "$work"' EXIT

DESTDIR=$work "$cmake" --install "$build" --prefix /usr >"$work/log" || {
  cat "$work/log"
  exit 1
}
library=$(find "$work/usr" -name libpoolshift.so.1)
folder=$(dirname -- "$library")
for file in usr/sbin/poolshift usr/include/poolshift.h usr/libexec/poolshift/poolshift-qemu-hook; do
  [[ -e $work/$file ]] || { echo "not installed: $file"; exit 1; }
done
if readelf -d "$work/usr/sbin/poolshift" "$library" | grep -E 'R(UN)?PATH'; then
  echo "what is installed must not look for libraries in the build folder"
  exit 1
fi

cat >"$work/caller.c" <<'END'
#include <poolshift.h>
#include <stdio.h>
int main(void) { return puts(poolshift_version()) < 0 || poolshift_abi_version() / 1000 != POOLSHIFT_ABI_MAJOR; }
END
# What the library itself needs is its own business: a caller links nothing else.
"$cc" -std=c99 -Wall -Werror -I"$work/usr/include" "$work/caller.c" -L"$folder" -lpoolshift -Wl,--allow-shlib-undefined \
  -o "$work/caller"
export LD_LIBRARY_PATH=$folder
version=$("$work/caller")
[[ $("$work/usr/sbin/poolshift" --version) == *"$version"* ]] || { echo "command and library differ in version"; exit 1; }
