#!/bin/bash
# poolshift(8) against the program and the header: every option of 'poolshift COMMAND --help' stands in the page under
# that command and the other way round; so do the exit codes and the variables of the environment.
#
#   check_man.sh POOLSHIFT PAGE.rst HEADER SOURCE...
#
# and each finding that a SOURCE of the doctor names is in the table of findings.
set -euo pipefail

poolshift=$1
page=$2
header=$3
shift 3
failed=0

# The lines between the title $1 and the next title; a title is what stands on '===' or '---'.
section() {
  awk -v wanted="$1" '
    { line[NR] = $0 }
    END {
      for (i = 1; i <= NR; ++i) {
        if (line[i] != "" && line[i + 1] ~ /^(===|---)[-=]*$/) inside = line[i] == wanted
        else if (inside) print line[i]
      }
    }' "$page"
}

# The titles "Options of ..." that name the command $1.
titles_for() {
  grep -E '^Options of ' "$page" | grep -E "(of|,|and) (every command|$1)\b" ||
    { echo "no section 'Options of ...' names the command '$1'" >&2; exit 1; }
}

options_in_page() {
  local title
  titles_for "$1" | while read -r title; do section "$title"; done | sed -n 's/^\(--[a-z][a-z-]*\).*/\1/p' | sort -u
}

options_in_help() { "$poolshift" "$1" --help | sed -n 's/^  \(-[a-z] \[ \)\?\(--[a-z-]*\).*/\2/p' | sort -u; }

# compare WHAT PROGRAM PAGE
compare() {
  local difference
  [ -n "$2" ] || { echo "$1: nothing was found in the program" >&2; failed=1; }
  difference=$(diff <(echo "$2") <(echo "$3")) && return
  printf "%s: '<' is in the program only, '>' in %s only:\n%s\n" "$1" "$page" "$difference" >&2
  failed=1
}

commands=$("$poolshift" --help | sed -n 's/^  \([a-z][a-z]*\)  .*/\1/p')
compare commands "$(sort <<<"$commands")" "$(section COMMANDS | sed -n 's/^\*\*\([a-z]*\)\*\*$/\1/p' | sort)"
for command in $commands; do
  compare "options of $command" "$(options_in_help "$command")" "$(options_in_page "$command")"
done

kWarningsOfDoctor=8
codes=$({ sed -n 's/^ *POOLSHIFT_[A-Z]* = \([0-6]\),.*/\1/p' "$header"; echo "$kWarningsOfDoctor"; } | sort)
compare 'exit codes' "$codes" "$(section 'EXIT STATUS' | grep -E '^[0-9]+$' | sort)"
compare 'exit codes in --help' "$codes" "$("$poolshift" --help | grep -oE '[0-9] [a-z]+' | cut -c1 | sort)"

variables=$("$poolshift" status --help | grep -oE '\$[A-Z_]+' | tr -d '$' | sort -u)
compare 'environment variables' "$variables" "$(section ENVIRONMENT | grep -E '^[A-Z_]+$' | grep -v '^TERM$' | sort)"

findings=$(grep -ohzE "finding\(\s*['\"][a-z_]+|\{\"feature_[a-z]+" "$@" | tr '\0' '\n' | grep -oE "['\"][a-z_]+" |
  tr -d "'\"" | sort -u)
compare findings "$findings" "$(section FINDINGS | sed -n 's/^\x60\x60\([a-z_]*\)\x60\x60 .*/\1/p' | sort)"

exit "$failed"
