# Shell functions shared by the scripts of the test cloud. To be sourced by bash.
# shellcheck shell=bash disable=SC2034,SC2154 # what is set here is for the scripts, and they have $password

# A cloud is one folder.
#
#   DIR/env          what tests source
#   DIR/etc/         one configuration file for each service
#   DIR/services/    one program for each service, which becomes it; DIR/run/ their pids, DIR/logs/ what they say
#   DIR/python/      what comes first on nova-compute's PYTHONPATH (--driver poolshift)
#   DIR/stack/       the cluster and libvirtd, when `up` started them
#   DIR/{mysql,rabbitmq,nova,cinder,glance,keystone,neutron,poolshift}/   their state
#
# Whatever runs for the cloud has POOLSHIFT_CLOUD=DIR in its environment, and so have its children: so a process can be
# proved to belong to the cloud before it is signalled. The env file never sets it.

openstack_here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/stack/functions.sh
. "$openstack_here/../stack/functions.sh"

kCloudMarker=.poolshift-openstack
kRegion=RegionOne

# In the order in which they are started.
kServices='mariadb rabbitmq keystone placement glance neutron cinder-api cinder-scheduler cinder-volume nova-api'
kServices+=' nova-conductor nova-scheduler nova-compute'

# A python3 that comes first on somebody's PATH has none of Debian's modules.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH

cloud_dir() {
  local dir
  dir=$(realpath -m -- "$1")
  [[ -e $dir/$kCloudMarker ]] || die "'$1' is not a test cloud: run tests/openstack/up first"
  echo "$dir"
}

# cloud_load DIR: sources the cloud's env file.
cloud_load() {
  local dir
  dir=$(cloud_dir "$1") || exit 1
  [[ -r $dir/env ]] || die "the cloud in '$dir' is not complete: run tests/openstack/down, then up"
  # shellcheck source=/dev/null
  . "$dir/env"
}

# --- configuration files ---------------------------------------------------------------------------------------------

# section NAME LINES...
section() {
  printf '\n[%s]\n' "$1"
  shift
  printf '%s\n' "$@"
}

# --- processes -------------------------------------------------------------------------------------------------------

# has_mark DIR PID [SERVICE]
has_mark() {
  is_running "$2" || return 1
  LC_ALL=C grep -qzxF -- "POOLSHIFT_CLOUD=$1" "/proc/$2/environ" 2>/dev/null || return 1
  [[ -z ${3:-} ]] || LC_ALL=C grep -qzxF -- "POOLSHIFT_CLOUD_SERVICE=$3" "/proc/$2/environ" 2>/dev/null
}

# cloud_pids DIR: all its processes, but not this one nor what it was started by.
cloud_pids() {
  local dir=$1 proc pid mine=" $BASHPID " parent=$BASHPID
  while ((parent > 1)); do
    parent=$(ps -o ppid= -p "$parent" | tr -d ' ') || break
    mine+="$parent "
  done
  for proc in /proc/[0-9]*; do
    pid=${proc#/proc/}
    if [[ $mine != *" $pid "* ]] && has_mark "$dir" "$pid"; then echo "$pid"; fi
  done
}

main_pid() {
  local dir=$1 name=$2 pid
  { read -r pid <"$dir/run/$name.pid"; } 2>/dev/null || return 1
  has_mark "$dir" "$pid" "$name" && echo "$pid"
}

# service_pids DIR NAME: the process of the service first, then what it forked to do its work (cinder-volume does, for
# each backend). Not what it merely started: a guardian must outlive its nova-compute.
service_pids() {
  local dir=$1 name=$2 leader pid
  leader=$(main_pid "$dir" "$name") || return 0
  echo "$leader"
  for pid in $(ps -o pid= --sid "$leader"); do
    [[ $pid != "$leader" ]] || continue
    # RabbitMQ's first process is a shell script.
    if [[ $name == rabbitmq ]] || cmp -s "/proc/$leader/cmdline" "/proc/$pid/cmdline"; then echo "$pid"; fi
  done
}

signal_pids() {
  local dir=$1 signal=$2 pid
  shift 2
  for pid in "$@"; do
    if has_mark "$dir" "$pid"; then kill "-$signal" "$pid" 2>/dev/null || true; fi
  done
}

end_pids() {
  local dir=$1 seconds=$2
  shift 2
  (($# > 0)) || return 0
  if ((seconds > 0)); then
    signal_pids "$dir" TERM "$@"
    signal_pids "$dir" CONT "$@"
    wait_until "$seconds" "processes $* to end" none_running "$@" && return
  fi
  signal_pids "$dir" KILL "$@"
  wait_until 30 "killed processes $* to be gone" none_running "$@"
}

# --- services --------------------------------------------------------------------------------------------------------

# launch DIR NAME: starts it and does not wait.
launch() {
  local dir=$1 name=$2
  ! main_pid "$dir" "$name" >/dev/null || return 0
  [[ -x $dir/services/$name ]] || die "the cloud in '$dir' has no service '$name'"
  note_time "$dir" "$name"
  (
    cd /
    exec setsid "$dir/services/$name" </dev/null >>"$dir/logs/$name.log" 2>&1
  ) &
  echo $! >"$dir/run/$name.pid"
  disown
  # Until it has become the service, it does not have the mark.
  wait_until 10 "$name to be started" main_pid_or_end "$dir" "$name" $!
}

main_pid_or_end() { main_pid "$1" "$2" || ! is_running "$3"; }

# port_of DIR NAME
port_of() { sed -n "s/^$2 //p" "$1/ports"; }

answers_http() { curl -fsS -o /dev/null --noproxy '*' --max-time 5 "http://127.0.0.1:$(port_of "$1" "$2")/"; }

# is_ready DIR NAME: it runs and does its work.
is_ready() {
  local dir=$1 name=$2
  main_pid "$dir" "$name" >/dev/null || return 1
  case $name in
    mariadb) sql "$dir" '' 'select 1' ;;
    rabbitmq) (: <"/dev/tcp/127.0.0.1/$(port_of "$dir" rabbitmq)") ;;
    keystone | placement | glance | neutron | *-api) answers_http "$dir" "$name" ;;
    nova-*) has_reported "$dir" nova last_seen_up "$name" ;;
    cinder-*) has_reported "$dir" cinder updated_at "$name" ;;
  esac
}

# has_reported DIR DATABASE COLUMN NAME: a service without a port tells the others by the database that it is alive;
# has it done so since it was started, for each backend?
has_reported() {
  [[ $(sql "$1" "$2" "select count(*) > 0 and min(coalesce($3, created_at)) >= '$(<"$1/run/$4.since")'
    from services where \`binary\` = '$4' and deleted = 0") == 1 ]]
}

# By the database's clock, which has no fractions of a second here: from the next second on, in which whoever was there
# before can have reported nothing.
note_time() { date -u -d '+1 second' '+%F %T' >"$1/run/$2.since"; }

# await DIR NAME SECONDS: until the service is ready; fails at once when it has ended.
await() {
  local dir=$1 name=$2
  wait_until "$3" "$name to be ready (see '$dir/logs/$name.log')" is_ready_or_ended "$dir" "$name" || return 1
  main_pid "$dir" "$name" >/dev/null || {
    note "$name has ended: see '$dir/logs/$name.log'"
    return 1
  }
}

is_ready_or_ended() { is_ready "$1" "$2" || ! main_pid "$1" "$2"; }

# sql DIR DATABASE STATEMENTS
sql() {
  mariadb --no-defaults --socket="$1/mysql/mysql.sock" --user=root --batch --skip-column-names \
    ${2:+--database="$2"} --execute "$3" 2>&1
}

# --- the APIs, for the cloud in $dir whose administrator has $password -----------------------------------------------

url() { echo "http://127.0.0.1:$(port_of "$dir" "$1")"; }

# api METHOD SERVICE PATH [JSON]
api() {
  local answer
  answer=$(curl -sS --fail-with-body --noproxy '*' --max-time 120 -X "$1" -H "X-Auth-Token: $token" \
    ${4:+-H 'Content-Type: application/json' -d "$4"} "$(url "$2")/$3" 2>&1) ||
    die "$2 refused '$1 $3': $answer"
  echo "$answer"
}

get_token() {
  local body headers
  body=$(jq -cn --arg password "$password" '{auth: {
    identity: {methods: ["password"], password: {user: {name: "admin", domain: {id: "default"}, password: $password}}},
    scope: {project: {name: "admin", domain: {id: "default"}}}}}')
  headers=$(curl -sS --fail --noproxy '*' --max-time 60 -D - -o "$dir/run/token.json" \
    -H 'Content-Type: application/json' -d "$body" "$(url keystone)/v3/auth/tokens") || die "keystone gave no token"
  token=$(sed -n 's/^x-subject-token: \([^\r]*\).*/\1/ip' <<<"$headers")
  project=$(jq -r .token.project.id "$dir/run/token.json")
}

# A query to Neutron for ports fails until another has been made.
wake_neutron() { api GET neutron v2.0/networks >/dev/null; }

# --- guests ----------------------------------------------------------------------------------------------------------

# As in tests/stack/guest: without what an emulated CPU pays dearly for.
kGuestCommandLine='console=ttyS0 loglevel=4 panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check'
kGuestCommandLine+=' cryptomgr.notests'

# The root disk: zeros, then bytes that no guest wrote.
kRootEmptyBytes=$((50 << 20))
kRootFullBytes=$((14 << 20))

# upload_guest_image NAME KERNEL RAMDISK WORDS: an image whose servers are test guests with WORDS on their command line.
# The guest has no boot loader, Nova starts its kernel. It has a root disk only because an image is one.
upload_guest_image() {
  local cmdline=$kGuestCommandLine${4:+ $4}
  upload_image "$(jq -cn --arg name "$1" --arg kernel "$2" --arg ramdisk "$3" --arg cmdline "$cmdline" \
    '{name: $name, disk_format: "raw", container_format: "bare", visibility: "public", min_disk: 1, kernel_id: $kernel,
    ramdisk_id: $ramdisk, os_command_line: $cmdline}')" "$dir/glance/root.raw"
}

# upload_image JSON FILE: says its id
upload_image() {
  local id
  id=$(api POST glance v2/images "$1" | jq -r .id)
  curl -sS --fail-with-body --noproxy '*' --max-time 120 -X PUT -H "X-Auth-Token: $token" \
    -H 'Content-Type: application/octet-stream' -T "$2" "$(url glance)/v2/images/$id/file" >&2 ||
    die "glance did not take '$2'"
  echo "$id"
}
