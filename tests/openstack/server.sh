# A server of the test cloud with volumes to move, and what must be true of them. Sourced by tests on a cloud.
# shellcheck shell=bash disable=SC2034 # what is set here is for the tests
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/../integration/functions.sh"
engine=mirror

kSettledSeconds=120 # what may pass until all is right again after a death

service() { "$tests/openstack/service" "$OPENSTACK_DIR" "$@" </dev/null; }
server() { "$tests/openstack/guest" "$OPENSTACK_DIR" "$@" </dev/null; }
PATH=$OPENSTACK_BIN:$PATH # poolshift-nova-doctor
serial_log() { server log "$1"; }
sql() { mariadb --no-defaults --socket="$OPENSTACK_MYSQL_SOCKET" --user=root --batch --skip-column-names "$1" -e "$2"; }

# --- the server ------------------------------------------------------------------------------------------------------

# The server `web` with three volumes that it fills and writes to: $volume, whose types tell Cinder to ask Nova; $second,
# of a type that any backend has; $lost, whose types make Cinder copy by itself.
boot() {
  export S=$OPENSTACK_POOLSHIFT_STATE_DIR POOLSHIFT_STATE_DIR=$OPENSTACK_POOLSHIFT_STATE_DIR
  POOLSHIFT_OVERLAY_DIR=$OPENSTACK_POOLSHIFT_OVERLAY_DIR
  # Short: a guest was seen without the end of a long command line after a hard reboot.
  # Hot: within what was filled, so that no image grows beside what a test does about room;
  # the data of $second is spread over it, so that a copy's progress is seen.
  local work=mode=hot,rate=9,fill=8M
  server image writer vdb=mode=random,rate=50,span=48M,fill=48M "vdc=$work,spread=1G" "vdd=$work"
  at_end openstack image delete writer
  openstack volume type create any
  at_end openstack volume type delete any
  at_end delete_volumes
  openstack server create --image writer --flavor small --nic none --wait web
  at_end openstack server delete --wait web
  server follow web
  domain=$(server domain web)
  volume=$(attach hdd vdb)
  second=$(attach any vdc)
  lost=$(attach hdd-same vdd)
}

# attach TYPE DISK: the id of a volume that the server has filled.
attach() {
  local id
  id=$(new_volume 1 --type "$1")
  openstack server add volume web "$id" >&2
  server wait web "^FILLED $2 " 300 >&2
  echo "$id"
}

# new_volume SIZE OPTIONS...
new_volume() {
  local id size_gib=$1
  shift
  id=$(openstack volume create --size "$size_gib" "$@" data -f value -c id)
  printf ",'%s'" "$id" >>"$base/volumes"
  until_true 120 volume_is "$id" available
  echo "$id"
}

# The servers that had them are gone.
delete_volumes() {
  local id
  for id in $(sql cinder 'select id from volumes where deleted = 0'); do delete_volume "$id"; done
}
delete_volume() {
  until_true 60 volume_is "$1" available
  openstack volume delete "$1"
  until_true 60 volume_is "$1" deleted
}
volume_is() { [[ $(sql cinder "select status from volumes where id = '$1'") == "$2" ]]; }
server_is() { [[ $(sql nova "select vm_state from instances where deleted = 0 and display_name = '$1'") == "$2" ]]; }

reboot_hard() {
  openstack server reboot --hard --wait web
  wait_for_writes web vdb 20
}

# --- where its volumes are -------------------------------------------------------------------------------------------

type_of() {
  sql cinder "select t.name from volumes v join volume_types t on t.id = v.volume_type_id where v.id = '$1'"
}
other_type() { if [[ $(type_of "$volume") == hdd ]]; then echo ssd; else echo hdd; fi; }
other_backend() { if [[ $(image_of "$1") == volumes-hdd/* ]]; then echo ssd; else echo hdd; fi; }

# The image that Cinder means: where its host says, and after a migration with the name of another id.
image_of() {
  sql cinder "select concat('volumes-', substring_index(host, '#', -1), '/volume-', ifnull(_name_id, id)) from volumes
    where id = '$1'"
}

# settled VOLUME: Cinder has nothing more to do with it, and no volume is left that it made for a migration.
settled() {
  local state
  state=$(sql cinder "select concat(status, ' ', ifnull(migration_status, '')) from volumes where id = '$1'")
  [[ $state =~ ^in-use\ (success|error)?$ ]] &&
    [[ $(sql cinder "select count(*) from volumes where deleted = 0 and id not in (''$(<"$base/volumes"))") == 0 ]]
}
settled_as() { settled "$1" && [[ $(type_of "$1") == "$2" ]]; }
is_in() { settled "$2" && [[ $(image_of "$2") == "volumes-$1/"* ]]; }
is_on_another_image() { [[ $(disk_image "$domain" vdb) != "$1" ]]; }

# assert_of_one_mind [VOLUME DISK [SERVER [GUEST-CHECK-OPTIONS...]]]: Cinder, Nova, libvirt and the cluster name the same
# image; the data is there.
assert_of_one_mind() {
  local id=${1:-$volume} disk=${2:-vdb} name=${3:-web} image bdm attachments domain
  domain=$(server domain "$name")
  image=$(image_of "$id")
  assert_equal "$(disk_image "$domain" "$disk")" "$image" "disk of the running domain"
  assert_equal "$(disk_image "$domain" "$disk" --inactive)" "$image" "disk of the persistent domain"
  bdm=$(sql nova "select connection_info from block_device_mapping where deleted = 0 and volume_id = '$id'")
  assert_equal "$(jq -r .data.name <<<"$bdm")" "$image" "image in Nova's BDM"
  attachments=$(sql cinder "select group_concat(attach_status) from volume_attachment where deleted = 0 and volume_id = '$id'")
  assert_equal "$attachments" attached "attachments of the volume"
  until_true 45 has_watchers "$image" 1 || fail "watchers of $image: $(watchers "$image")"
  wait_for_writes "$name" "$disk" 20
  assert_data "$name" "$disk" "$image" "${@:4}"
}

# --- moving them -----------------------------------------------------------------------------------------------------

retype() { openstack volume set --type "$2" --retype-policy on-demand "$1"; }

# configure [KEY=VALUE]...: these options of [poolshift], and no others that tests set.
configure() {
  local pair
  sed -i '/^\(bandwidth\|engine\) = /d' "$OPENSTACK_NOVA_CONF"
  for pair in "$@"; do sed -i "s/^\[poolshift\]\$/&\n${pair%%=*} = ${pair#*=}/" "$OPENSTACK_NOVA_CONF"; done
  service restart nova-compute
}

# begin_slow_retype PHASE [OPTIONS...]: returns when the job, $job, is in that phase.
begin_slow_retype() {
  local phase=$1
  shift
  at_end configure
  configure bandwidth=4 "$@"
  remember_jobs
  retype "$volume" "$(other_type)"
  until_true 60 new_job
  wait_for_phase "$phase"
}
new_job() {
  local journal
  for journal in "$S"/jobs/*.journal; do
    job=${journal##*/}
    job=${job%.journal}
    [[ -e $T/known/${journal##*/} ]] || return 0
  done
  return 1
}

# refused VOLUME COMMAND...: the volume stays what and where it is, with all of one mind, whoever says no.
refused() {
  local id=$1 before type
  shift
  before=$(image_of "$id")
  type=$(type_of "$id")
  "$@" || say "refused at once"
  until_true 120 settled "$id"
  assert_equal "$(type_of "$id")" "$type" "type of the volume"
  assert_equal "$(image_of "$id")" "$before" "image of the volume"
}
