#!/bin/bash
# The configuration file: what counts more, what is refused and how it is said, and that the manual page, the example
# and the program have the same options.
#
#   check_config.sh POOLSHIFT PAGE.rst EXAMPLE
set -euo pipefail

poolshift=$1 page=$2 example=$3
work=$(mktemp -d "${TMPDIR:-/tmp}/poolshift-config.XXXXXX")
trap 'rm -rf "$work"' EXIT
conf=$work/poolshift.conf
unset LIBVIRT_DEFAULT_URI CEPH_CONF POOLSHIFT_STATE_DIR POOLSHIFT_OVERLAY_DIR POOLSHIFT_GUARDIAN POOLSHIFT_CONFIG

fail() {
  echo "$*" >&2
  exit 1
}

# with TEXT: the file; no other user can write it.
with() { printf '%s\n' "$1" >"$conf"; }

# run EXIT_CODE ARGUMENT...: with the file, but for what the environment says.
run() {
  local expected=$1 code=0
  shift
  POOLSHIFT_CONFIG=${POOLSHIFT_CONFIG-$conf} "$poolshift" "$@" >"$work/out" 2>"$work/err" </dev/null || code=$?
  [[ $code == "$expected" ]] || fail "poolshift $* with '$(<"$conf")': exit code $code, not $expected: $(<"$work/err")"
}
err_has() { grep -qF -- "$1" "$work/err" || fail "stderr lacks '$1': $(<"$work/err")"; }

# refused LINE SENTENCE: one sentence, with file and line, and nothing was made.
refused() {
  with "# a comment
$1
state-dir = $work/unused"
  run 2 status
  err_has "line 2 of '$conf'"
  err_has "$2"
  [[ $(wc -l <"$work/err") == 1 && ! -e $work/unused ]] || fail "more than a sentence: $(<"$work/err")"
}

refused 'paralel = 3' "there is no option 'paralel', which is in line 2 of '$conf'. Did you mean 'parallel'?"
refused 'domain = web' "there is no option 'domain'"
refused '--engine = auto' "there is no option '--engine'"
refused 'engine' 'is neither NAME = VALUE nor a comment'
refused 'engine =' 'is given an empty value'
refused 'engine = fast' "is given 'fast', which it does not know. Give auto, mirror or handover."
refused 'hydrate = slowly' "Give auto, offload or flatten."
refused 'source = delete' 'Give keep or trash.'
refused 'parallel = 65' 'Give a whole number from 1 to 64.'
refused 'attempts = 0' 'Give a whole number from 1 to 1000.'
refused 'patience = 1h' 'Give whole seconds from 1 to 86400.'
refused 'max-pause = 61' 'Give seconds from 0.5 to 60.'
refused 'bandwidth = 50X' "'bandwidth' in line 2"
refused '[worker]' 'there is a section'
refused 'ceph-conf = ceph.conf' 'which is no absolute path'
refused 'log-file = poolshift.log' 'which is no absolute path'
refused $'engine = \xff' 'is not UTF-8'
with $'engine = auto\n\nengine = mirror'
run 2 status
err_has "'engine' in line 3 of '$conf' is given before, in line 1 of '$conf'. Give it once."

# Every command looks at all of it, also what it does not need; help needs none.
with 'parallel = many'
run 2 cancel 0123456789ab --json
grep -qF '"code":"invalid"' "$work/out" || fail "no object: $(<"$work/out")"
run 0 status --help

# Whoever else can write it might say what root runs.
with 'parallel = 3'
chmod 666 "$conf"
run 2 status
err_has 'every user may write to it. It has to be a file that only root, or you, can write.'
chmod 644 "$conf"
ln -s "$conf" "$work/link"
POOLSHIFT_CONFIG=$work/link run 2 status
err_has 'it is a symbolic link'
POOLSHIFT_CONFIG=$work/none run 2 status
err_has "'$work/none'"
run 2 status --config "$work/none"
run 2 status --config ''
err_has "'--config' is given an empty value"
if [[ $EUID == 0 ]]; then
  chown 65534 "$conf"
  run 2 status
  chown 0 "$conf"
fi

# The state folder that is used tells what counts: the file, the environment before it, the command line before both.
used() {
  run 0 "$@"
  local folder found=()
  for folder in "$work"/in-*; do
    found+=("${folder##*/in-}")
    rm -r "$folder"
  done
  echo "${found[*]}"
}
shopt -s nullglob
with "  state-dir=$work/in-file   # of this node"
equal() { [[ $1 == "$2" ]] || fail "used is what '$1' says, not '$2'"; }
equal "$(used status)" file
equal "$(POOLSHIFT_STATE_DIR=$work/in-environment used status)" environment
equal "$(POOLSHIFT_STATE_DIR=$work/in-environment used status --state-dir "$work/in-words")" words
with ''
equal "$(POOLSHIFT_STATE_DIR=$work/in-environment used status)" environment
printf 'state-dir = %s\n' "$work/in-named" >"$work/named.conf"
with "state-dir = $work/in-file"
equal "$(used status --config "$work/named.conf")" named
# A default is no request to change a job that runs.
with "state-dir = $work/in-file
bandwidth = 10M"
run 2 set 0123456789ab
err_has 'there is nothing to set'

# The file's own place, which may be empty.
if [[ $EUID == 0 ]] && unshare --mount true 2>/dev/null; then
  # shellcheck disable=SC2016 # for the shell in the namespace
  in_etc() {
    unshare --mount --propagation private sh -c 'mount -t tmpfs tmpfs /etc && mkdir /etc/poolshift && eval "$2" && exec "$1" status' \
      sh "$poolshift" "$1" 2>"$work/err"
  }
  POOLSHIFT_STATE_DIR=$work/state in_etc : >"$work/out" || fail "without a file: $(<"$work/err")"
  in_etc 'echo "engine = x" >/etc/poolshift/poolshift.conf' && fail "a bad file in its place was not seen"
  err_has "line 1 of '/etc/poolshift/poolshift.conf'"
fi

# The options of the program are those of its commands that it takes from the file.
options=$("$poolshift" --help | sed -n 's/^  \([a-z][a-z]*\)  .*/\1/p' | while read -r command; do
  "$poolshift" "$command" --help | grep -oE -- '^  (-[a-z] \[ )?--[a-z-]+' | sed 's/.*--//'
done | sort -u)
taken=$(for option in $options; do
  with "$option = "
  said=$("$poolshift" status --config "$conf" 2>&1) || true
  [[ $said == *'there is no option'* ]] || echo "$option"
done)
told=$(awk '/^OPTIONS$/ { inside = 1 } /^[A-Z]+$/ && !/^OPTIONS$/ { inside = 0 } inside' "$page" | sed -n 's/^\([a-z][a-z-]*\) = .*/\1/p' | sort)
shown=$(sed -n 's/^#\([a-z][a-z-]*\) = .*/\1/p' "$example" | sort)
[[ -n $taken && $taken == "$told" ]] || fail "the program takes: '$taken'; in the page are: '$told'"
[[ $taken == "$shown" ]] || fail "the program takes: '$taken'; in the example are: '$shown'"
# The example says nothing, and each of its lines would be taken.
cp "$example" "$conf"
equal "$(POOLSHIFT_STATE_DIR=$work/in-environment used status)" environment
sed 's/^#\([a-z]\)/\1/' "$example" >"$conf"
equal "$(used status --state-dir "$work/in-words")" words
