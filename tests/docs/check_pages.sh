#!/bin/bash
# The manual pages, README.md and docs against the programs and the sources; poolshift(8)'s own options are looked at by
# tests/unit/check_man.sh. Names each thing that is in one and not in the other.
# shellcheck disable=SC2016,SC1003 # what is in quotes are regular expressions with backticks and backslashes
#
#   check_pages.sh SOURCE-FOLDER POOLSHIFT GUARDIAN HOOK
set -uo pipefail

root=$1 poolshift=$2 guardian=$3 hook=$4
pages=$root/docs/man
failed=0
cd "$root" || exit 1

fail() {
  echo "$*" >&2
  failed=1
}

# compare WHAT ONE OTHER: both are lists, one entry a line; fails when they differ, or when there is none.
compare() {
  local difference
  [[ -n $2 ]] || fail "$1: nothing was found"
  difference=$(diff <(sort -u <<<"$2") <(sort -u <<<"$3")) || fail "$1: '<' is in the program or source only, '>' in the page only:
$difference"
}

# section PAGE TITLE: the lines up to the next title of this kind.
section() {
  awk -v wanted="$2" '
    { line[NR] = $0 }
    END {
      for (i = 1; i <= NR; ++i)
        if (line[i] != "" && line[i + 1] ~ /^===+$/) inside = line[i] == wanted
        else if (inside) print line[i]
    }' "$pages/$1.rst"
}

# terms: of a list of definitions, each by itself.
terms() { sed -n 's/^\(``\)\?\([A-Za-z_-][A-Za-z_0-9-]*\)\(``\)\?.*/\2/p'; }
options_in() { grep -oE -- '--[a-z][a-z-]+' | sort -u; }

# --- programs --------------------------------------------------------------------------------------------------------

# The numbers that a program's main.cpp returns.
codes_of() {
  sed -nE 's/^constexpr int k(Usage|Refused) = ([0-9]+);.*/\2/p; s/.*\breturn ([0-9]+);.*/\1/p' "$1" | sort -u
}

check_program() {
  local page=$1 program=$2 source=$3
  compare "options of $page" "$("$program" --help | sed -n 's/^  \(--[a-z-]*\) .*/\1/p')" \
    "$(section "$page" OPTIONS | sed -n 's/^\(--[a-z-]*\).*/\1/p')"
  compare "exit codes of $page" "$(codes_of "$source")" "$(section "$page" 'EXIT STATUS' | grep -E '^[0-9]+$')"
}
check_program poolshift-guardian.8 "$guardian" guardian/main.cpp
check_program poolshift-qemu-hook.8 "$hook" hooks/main.cpp

# The scripts have no pages; what they say with --help is what they understand.
for script in demo test packaging/build bench/run tests/integration/run tests/packaging/run tests/openstack/run tests/stack/up; do
  compare "options of $script" "$(grep -E '^ *(-[a-z] \| )?--[a-z-]+( \| -[a-z-]+)*\)' "$script" | sed 's/).*//' | options_in)" \
    "$(bash "$script" --help | options_in; echo --help)"
done

# Options that the documents name and that are other programs'.
foreign='--arg --bind --data-pool --help-list --inactive --install --json-pretty --key --config --no-openstack --only --packaging --prefix --quick
  --keep --reason --set --signoff --type --retype-policy --property --host --state --namespace --uri --build --test-dir --output
  --with-tests --namespace --driver --nova-conf'
known=$(
  for command in $("$poolshift" --help | sed -n 's/^  \([a-z][a-z]*\)  .*/\1/p'); do
    "$poolshift" "$command" --help | sed -n 's/^  \(-[a-z] \[ \)\?\(--[a-z-]*\).*/\2/p'
  done
  for word in --version --help $foreign; do echo "$word"; done
)
for file in docs/man/*.rst README.md docs/operators-guide.md docs/architecture.md CONTRIBUTING.md SECURITY.md; do
  unknown=$(comm -23 <(options_in <"$file") <(sort -u <<<"$known"))
  [[ -z $unknown ]] || fail "$file names options that no program has: $unknown"
done

# --- exit codes ------------------------------------------------------------------------------------------------------

codes=$(sed -n 's/^ *\(POOLSHIFT_[A-Z]*\) = \([0-9]\)\>.*/\1 (\2)/p' plugin/include/poolshift.h)
compare 'results in libpoolshift(3)' "$codes" "$(section libpoolshift.3 'RETURN VALUE' | grep -E '^POOLSHIFT_')"
exits=$(grep -o '[0-6])' <<<"$codes" | tr -d ')')
compare 'exit codes in README.md' "$exits" "$(grep -A 1 '^Exit codes: ' README.md | grep -oE '\b[0-9] [a-z]' | cut -c 1)"

# --- the library -----------------------------------------------------------------------------------------------------

# The prototypes, without spaces and POOLSHIFT_API.
prototypes() { tr '\n' ' ' | grep -oE '[a-z][a-z_* ]* ?\*? ?poolshift_[a-z_]+\([^()]*\);' | tr -d ' '; }
header=$(sed 's/\/\*.*\*\///; /^\/\*/,/\*\//d; s/^POOLSHIFT_API //' plugin/include/poolshift.h | prototypes)
compare 'prototypes in libpoolshift(3)' "$header" "$(section libpoolshift.3 SYNOPSIS | prototypes)"
compare 'functions that libpoolshift(3) describes' "$(grep -oE 'poolshift_[a-z_]+\(' <<<"$header" | tr -d '(')" \
  "$(section libpoolshift.3 FUNCTIONS | sed -n 's/^\*\*\(poolshift_[a-z_]*\)\*\*.*/\1/p')"

# keys_of FILE FUNCTION: the keys that this function reads.
keys_of() {
  awk -v begin="$2(" 'index($0, begin) && !/;$/ { inside = 1 } inside { print } inside && /^}/ { exit }' "$1" |
    grep -oE '(reader\.(text|texts|one_of|whole_number|boolean|labels|has|object)|image_name|cluster_access)\((reader, )?"[a-z_]+"' |
    grep -oE '"[a-z_]+"' | tr -d '"'
}
compare 'options of a host in libpoolshift(3)' "$(keys_of plugin/engine/host.cpp parse_host_options)" \
  "$(section libpoolshift.3 'OPTIONS OF A HOST' | terms)"
request_keys=$(keys_of plugin/flow/request.cpp parse_request)
compare 'keys of a request in libpoolshift(3)' "$request_keys" "$(section libpoolshift.3 REQUEST | sed -n '/^``/p' | terms)"
for key in $(keys_of plugin/flow/request.cpp cluster_access); do
  section libpoolshift.3 REQUEST | grep -q "\`\`$key\`\`" || fail "libpoolshift(3) lacks the key '$key' of target_access"
done

# --- what is in the sources and in a page ----------------------------------------------------------------------------

# Phase, domain, disk on, block copy, then: of each row, in its order.
of_source=$(awk '/^\/\/   journal /{on = 1; next} on && !/^\/\/   /{exit} on' plugin/flow/recover.h | sed 's/^\/\/ *//')
of_page=$(section poolshift-journal.5 'RECOVERY TABLE' |
  awk '/^=====/{++n; next} n == 3' | sed 's/\\-/nowhere/')
squeeze() { sed 's/none, ours/none,ours/; s/, /,/g; s/never left/never_left/; s/ours,pivoting/ours_pivoting/' | awk '{$1 = $1; print}'; }
[[ $(wc -l <<<"$of_source") -gt 20 ]] || fail "the recovery table was not found in plugin/flow/recover.h"
diff <(squeeze <<<"$of_source") <(squeeze <<<"$of_page") >&2 ||
  fail "poolshift-journal(5) has another recovery table than plugin/flow/recover.h ('<')"

phases=$(awk '/kPhaseNames = \{/{on = 1} on {print} on && /\}/{exit}' plugin/engine/transitions.h | grep -oE '"[a-z_]+"' | tr -d '"')
compare 'phases in poolshift(7)' "$phases
validate" "$(section poolshift.7 PHASES | grep -E '^[a-z_]+(, [a-z_]+)*$' | tr -d ' ' | tr , '\n')"
codes=$(sed -n 's/.*case ErrorCode::.*return "\([a-z_]*\)";.*/\1/p' plugin/base/error.h)
compare 'error codes in poolshift(8)' "$codes" \
  "$(section poolshift.8 REPORT | awk '/is one of/{on = 1} on {print} on && /internal/{exit}' | sed 's/.*is one of//' | grep -oE '``[a-z_]+``' | tr -d '\`')"

# --- the pages themselves --------------------------------------------------------------------------------------------

for file in "$pages"/*.rst; do
  page=$(basename "$file" .rst)
  sections=(DESCRIPTION 'SEE ALSO')
  case $page in
    *.8) sections+=(SYNOPSIS OPTIONS 'EXIT STATUS' FILES EXAMPLES) ;;
    *.5) sections+=('FILES|SYNOPSIS' 'EXAMPLES?') ;;
    *.3) sections+=(SYNOPSIS 'RETURN VALUE' EXAMPLE) ;;
  esac
  for title in "${sections[@]}"; do
    grep -qxE "$title" "$file" || fail "$page has no section $title"
  done
  for name in $(grep -oE '\*\*(lib)?poolshift[a-z.-]*\*\*\\\([0-9]\)' "$file" | tr -d '*()' | tr '\\' .); do
    [[ -e $pages/$name.rst ]] || fail "$page names the page $name, which there is not"
  done
  awk -f tests/docs/examples.awk "$file" >/dev/null || fail "the examples of $page cannot be read"
done

# A path that a document names in backticks or as a link is there.
for file in README.md docs/*.md CONTRIBUTING.md SECURITY.md; do
  for path in $(grep -oE '`(\.ci|bench|cli|docs|guardian|hooks|packaging|plugin|shim|tests)/[A-Za-z0-9_./*-]*`' "$file" | tr -d '\`'); do
    compgen -G "$path" >/dev/null || fail "$file names '$path', which there is not"
  done
  for path in $(grep -oE '\]\([^):]+\)' "$file" | tr -d ']()'); do
    [[ -e $(dirname "$file")/${path%%#*} ]] || fail "$file has a link to '$path', which there is not"
  done
  awk -f tests/docs/examples.awk "$file" >/dev/null || fail "the examples of $file cannot be read"
done

# What lintian asks of a page too.
if command -v man >/dev/null && command -v rst2man >/dev/null; then
  for file in "$pages"/*.rst; do
    said=$(rst2man --halt=warning "$file" |
      LC_ALL=C.UTF-8 MANROFFSEQ='' MANWIDTH=80 man --warnings -E UTF-8 -l -Tutf8 -Z - 2>&1 >/dev/null)
    [[ -z $said ]] || fail "$file is not rendered well: $said"
  done
else
  echo "not rendered: there is no man or no rst2man"
fi

exit "$failed"
