#!/bin/bash
# check_build.sh ROOT: 'packaging/build deb' on a system that has no package at all names the command that installs what
# it needs, and does not begin to build.
set -euo pipefail

root=$1
checker=$(command -v dpkg-checkbuilddeps) || {
  echo "skipped: dpkg-checkbuilddeps (package dpkg-dev) is not installed"
  exit 77
}

fail() {
  printf 'check_build: %s\n' "$*" >&2
  exit 1
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin" "$work/dpkg"
: >"$work/dpkg/status"
printf '#!/bin/sh\nexec "%s" --admindir="%s" "$@"\n' "$checker" "$work/dpkg" >"$work/bin/dpkg-checkbuilddeps"
printf '#!/bin/sh\n: >"%s"\nexit 1\n' "$work/began" >"$work/bin/dpkg-buildpackage"
chmod +x "$work"/bin/*

build() { PATH=$work/bin:$PATH "$root/packaging/build" deb --output "$work/out" "$@" 2>"$work/err"; }

! build || fail "it succeeded without any package"
[[ ! -e $work/began ]] || fail "it began to build"
command=$(sed -n 's/.*install them with: //p' "$work/err")
[[ $command == 'apt-get install '* ]] || fail "it names no command: $(<"$work/err")"
[[ $command != *[\(\|\<,]* ]] || fail "'$command' has more than names of packages"
for package in cmake libvirt-dev nlohmann-json3-dev python3-setuptools; do
  [[ " $command " == *" $package "* ]] || fail "'$command' does not have $package"
done
[[ " $command " != *' catch2 '* ]] || fail "'$command' has what only the tests need"

! build --with-tests || fail "it succeeded without any package"
grep -q 'apt-get install .*catch2' "$work/err" || fail "the tests' packages are missing: $(<"$work/err")"
