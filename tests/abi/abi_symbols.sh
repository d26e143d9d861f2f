#!/bin/bash
# What the library shows to the linker: exactly the functions of poolshift.h, all of version POOLSHIFT_1.0, and the
# name libpoolshift.so.1. What it needs is all there.
#
#   abi_symbols.sh LIBRARY HEADER
set -euo pipefail

library=$1
header=$2
version=POOLSHIFT_1.0
soname=libpoolshift.so.1
failed=0

fail() {
  echo "$*" >&2
  failed=1
}

if nm -D --undefined-only "$library" | grep -qE ' __(asan|ubsan|tsan)_'; then
  echo "skipped: $library is built with a sanitizer, which adds symbols of its own"
  exit 77
fi

# Every name before a '(' in a line that begins with POOLSHIFT_API.
declared=$(sed -n "s/^POOLSHIFT_API .*[ *]\(poolshift_[a-z_]*\)(.*/\1@@$version/p" "$header" | sort)
exported=$(nm -D --defined-only --with-symbol-versions "$library" | awk '$2 != "A" { print $3 }' | sort)

[ -n "$declared" ] || fail "no function was found in $header"
if [ "$(grep -c '^POOLSHIFT_API ' "$header")" != "$(wc -l <<<"$declared")" ]; then
  fail "some declaration in $header does not fit on one line, this check cannot read it"
fi

difference=$(diff <(echo "$declared") <(echo "$exported")) ||
  fail "'<' is declared in the header but not exported like this, '>' is exported but not declared:"$'\n'"$difference"

versions=$(nm -D --defined-only "$library" | awk '$2 == "A" { print $3 }' | sed 's/@.*//' | sort -u)
[ "$versions" = "$version" ] || fail "the library defines the versions '$versions', not only $version"

found_soname=$(readelf -d "$library" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')
[ "$found_soname" = "$soname" ] || fail "the SONAME is '$found_soname', not $soname"

undefined=$(ldd -r "$library" 2>&1 | grep -E 'undefined symbol|not found' || true)
[ -z "$undefined" ] || fail "$undefined"

readelf -d "$library" | grep -q 'NODELETE' || fail "the library can be unloaded (-z nodelete is missing): its threads could outlive it"

exit "$failed"
