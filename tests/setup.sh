# What ./demo and ./test share: words for the terminal, Debian packages, the build. To be sourced by bash.
# shellcheck shell=bash

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

# --- words -----------------------------------------------------------------------------------------------------------

if [[ -t 1 && ${TERM:-dumb} != dumb && -z ${NO_COLOR:-} ]]; then
  kBold=$'\e[1m' kGreen=$'\e[32m' kRed=$'\e[31m' kPlain=$'\e[0m'
else
  kBold='' kGreen='' kRed='' kPlain=''
fi

heading() { printf '\n%s%s%s\n' "$kBold" "$*" "$kPlain"; }

step_began_us=0
step() {
  step_began_us=${EPOCHREALTIME/[.,]/}
  printf '  %-58s' "$*"
}
step_done() {
  printf ' %s%s%s\n' "$kGreen" "${1:-$(seconds_since "$step_began_us")}" "$kPlain"
  step_began_us=0
}

# seconds_since MICROSECONDS: "1.2 s"
seconds_since() { awk -v us=$((${EPOCHREALTIME/[.,]/} - $1)) 'BEGIN { printf "%.1f s", us / 1e6 }'; }

# fail SENTENCE [LOG]: ends the program; the end of LOG is shown.
fail() {
  ((step_began_us == 0)) || printf ' %sfailed%s\n' "$kRed" "$kPlain"
  step_began_us=0
  printf '%s%s: %s%s\n' "$kRed" "${0##*/}" "$1" "$kPlain" >&2
  if [[ -s ${2:-} ]]; then
    printf 'The end of %s:\n' "$2" >&2
    tail -n 25 -- "$2" >&2
  fi
  exit 1
}

usage_error() {
  printf '%s: %s (--help tells more)\n' "${0##*/}" "$*" >&2
  exit 2
}

# --- packages --------------------------------------------------------------------------------------------------------

# missing_packages LIST...: the packages of tests/packages/LIST that are not installed. A list LIST.RELEASE adds what only
# that release of Debian has.
missing_packages() {
  local list file package release
  release=$(sed -n 's/^VERSION_ID="\?\([0-9]*\).*/\1/p' /etc/os-release)
  for list in "$@"; do
    for file in "$root/tests/packages/$list" "$root/tests/packages/$list.$release"; do
      [[ -e $file ]] || continue
      while read -r package; do
        [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null) == ii* ]] || echo "$package"
      done < <(grep -v '^#' "$file")
    done
  done
}

# install_packages LOG LIST...: no service is started by what is installed.
install_packages() {
  local log=$1 missing
  shift
  mapfile -t missing < <(missing_packages "$@")
  ((${#missing[@]} > 0)) || return 0
  command -v apt-get >/dev/null || fail "this is no Debian: install by hand what tests/packages lists"
  [[ $EUID == 0 ]] || fail "must run as root to install: ${missing[*]}"
  mkdir -p "$(dirname -- "$log")"
  forbid_services
  {
    apt-get update &&
      DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
  } </dev/null >"$log" 2>&1 || fail "packages could not be installed: ${missing[*]}" "$log"
  allow_services
}

kServicePolicy=/usr/sbin/policy-rc.d
service_policy_is_ours=no

# allow_services must be called in the caller's EXIT trap too.
forbid_services() {
  [[ ! -e $kServicePolicy ]] || return 0
  service_policy_is_ours=yes
  printf '#!/bin/sh\nexit 101\n' >"$kServicePolicy"
  chmod 755 "$kServicePolicy"
}

allow_services() {
  [[ $service_policy_is_ours == no ]] || rm -f "$kServicePolicy"
  service_policy_is_ours=no
}

# --- build -----------------------------------------------------------------------------------------------------------

# configure_poolshift FOLDER LOG CMAKE-OPTIONS...
configure_poolshift() {
  local folder=$1 log=$2 options=()
  shift 2
  if command -v ccache >/dev/null; then
    # Another clone's objects will do: of this one's folder only what is below it is hashed.
    export CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=yes
    options+=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  fi
  mkdir -p "$(dirname -- "$log")"
  cmake -S "$root" -B "$folder" -G Ninja "${options[@]}" "$@" </dev/null >"$log" 2>&1 ||
    fail "the build in '$folder' could not be configured" "$log"
}

# build_poolshift FOLDER LOG TARGET...
build_poolshift() {
  local folder=$1 log=$2
  shift 2
  ninja -C "$folder" "$@" </dev/null >>"$log" 2>&1 || fail "the build in '$folder' failed" "$log"
}
