#!/bin/bash
# Retypes of an attached volume, by a real Cinder and a real Nova, under a server that writes; also when a service dies in
# the middle. Run by tests/openstack/run.
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/../integration/functions.sh"
# shellcheck disable=SC2034 # used by what is sourced
engine=mirror

kSettledSeconds=120 # what may pass until all is right again after a death

service() { "$tests/openstack/service" "$OPENSTACK_DIR" "$@" </dev/null; }
server() { "$tests/openstack/guest" "$OPENSTACK_DIR" "$@" </dev/null; }
sql() { mariadb --no-defaults --socket="$OPENSTACK_MYSQL_SOCKET" --user=root --batch --skip-column-names "$1" -e "$2"; }

# --- a server with disks to move --------------------------------------------------------------------------------------

boot() {
  export S=$OPENSTACK_POOLSHIFT_STATE_DIR POOLSHIFT_STATE_DIR=$OPENSTACK_POOLSHIFT_STATE_DIR
  POOLSHIFT_OVERLAY_DIR=$OPENSTACK_POOLSHIFT_OVERLAY_DIR
  # Short: Nova gives a server that it starts again only the beginning of a long command line.
  local work=mode=random,rate=9,fill=8M
  server image writer vdb=mode=random,rate=50,span=48M,fill=48M "vdc=$work" "vdd=$work"
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
  volumes=3
}

# attach TYPE DISK: the id of a volume that the server has filled.
attach() {
  local id
  id=$(openstack volume create --type "$1" --size 1 data -f value -c id)
  until_true 60 volume_is "$id" available
  openstack server add volume web "$id" >&2
  server wait web "^FILLED $2 " 300 >&2
  echo "$id"
}

# The server that had them is gone.
delete_volumes() {
  local id
  for id in "$volume" "$second" "$lost"; do
    until_true 60 volume_is "$id" available
    openstack volume delete "$id"
    until_true 60 volume_is "$id" deleted
  done
}
volume_is() { [[ $(sql cinder "select status from volumes where id = '$1'") == "$2" ]]; }

# As in functions.sh, of a server.
acknowledged() { grep -c "^A $2 " "$(server log "$1")" || true; }
assert_server_data() {
  guest_check --image "$2" --disk "$1" --log "$(server log web)" >"$T/data.json" ||
    fail "the data on $2 is not right: $(jq -c '[.blocks, .violations]' "$T/data.json")"
  assert_json "$T/data.json" '.ok and .blocks.acknowledged_and_right > 0'
}

retype() { openstack volume set --type "$2" --retype-policy on-demand "$1"; }

# settled VOLUME: Cinder has nothing more to do with it.
settled() {
  local state
  state=$(sql cinder "select concat(status, ' ', ifnull(migration_status, '')) from volumes where id = '$1'")
  [[ $state =~ ^in-use\ (success|error)?$ && $(sql cinder 'select count(*) from volumes where deleted = 0') == "$volumes" ]]
}
settled_as() { settled "$1" && [[ $(type_of "$1") == "$2" ]]; }
type_of() {
  sql cinder "select t.name from volumes v join volume_types t on t.id = v.volume_type_id where v.id = '$1'"
}

# The image that Cinder means: where its host says, and after a migration with the name of another id.
image_of() {
  sql cinder "select concat('volumes-', substring_index(host, '#', -1), '/volume-', ifnull(_name_id, id)) from volumes
    where id = '$1'"
}

# assert_of_one_mind [VOLUME DISK]: Cinder, Nova, libvirt and the cluster name the same image; the data is there.
assert_of_one_mind() {
  local id=${1:-$volume} disk=${2:-vdb} image bdm attachments
  image=$(image_of "$id")
  assert_equal "$(disk_image "$domain" "$disk")" "$image" "disk of the running domain"
  assert_equal "$(disk_image "$domain" "$disk" --inactive)" "$image" "disk of the persistent domain"
  bdm=$(sql nova "select connection_info from block_device_mapping where deleted = 0 and volume_id = '$id'")
  assert_equal "$(jq -r .data.name <<<"$bdm")" "$image" "image in Nova's BDM"
  attachments=$(sql cinder "select group_concat(attach_status) from volume_attachment where deleted = 0 and volume_id = '$id'")
  assert_equal "$attachments" attached "attachments of the volume"
  until_true 45 has_watchers "$image" 1 || fail "watchers of $image: $(watchers "$image")"
  wait_for_writes web "$disk" 20
  assert_server_data "$disk" "$image"
}

reboot_hard() {
  openstack server reboot --hard --wait web
  wait_for_writes web vdb 20
}

other_type() { if [[ $(type_of "$volume") == hdd ]]; then echo ssd; else echo hdd; fi; }

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

# --- tests -----------------------------------------------------------------------------------------------------------

test_retype_there_and_back() {
  local to i
  for i in there back; do
    say "$i"
    to=$(other_type)
    retype "$volume" "$to"
    until_true 120 settled_as "$volume" "$to"
    assert_of_one_mind
  done
}

test_retype_by_handover() {
  local to i
  at_end configure
  configure engine=handover
  for i in there back; do
    say "$i"
    to=$(other_type)
    retype "$volume" "$to"
    until_true 120 settled_as "$volume" "$to"
    [[ $(tail -n 1 "$(newest_journal)") == *'"engine":"handover"'* ]] || fail "it was no handover"
    assert_of_one_mind
  done
}

# Of a type that names no backend: Cinder refuses others.
test_migrate() {
  local to i
  for i in there back; do
    say "$i"
    to=$(other_backend "$second")
    openstack volume migrate --host "cloud@$to#$to" "$second"
    until_true 120 is_in "$to" "$second"
    assert_of_one_mind "$second" vdc
  done
}
other_backend() { if [[ $(image_of "$1") == volumes-hdd/* ]]; then echo ssd; else echo hdd; fi; }
is_in() { settled "$2" && [[ $(image_of "$2") == "volumes-$1/"* ]]; }

test_two_volumes_of_a_server_at_once() {
  local to second_to
  to=$(other_type)
  second_to=$(other_backend "$second")
  retype "$volume" "$to"
  retype "$second" "$second_to"
  until_true 180 settled_as "$volume" "$to"
  until_true 180 settled_as "$second" "$second_to"
  assert_of_one_mind
  assert_of_one_mind "$second" vdc
}

# What may be done with a volume can be done with one that was moved.
test_life_after_a_retype() {
  local to snapshot
  to=$(other_type)
  retype "$volume" "$to"
  until_true 120 settled_as "$volume" "$to"
  say 'hard reboot'
  reboot_hard
  assert_of_one_mind
  say 'snapshot'
  snapshot=$(openstack volume snapshot create --force --volume "$volume" one -f value -c id)
  until_true 60 snapshot_is "$snapshot" available
  openstack volume snapshot delete "$snapshot"
  until_true 60 snapshot_is "$snapshot" deleted
  say 'stop, detach, attach, start'
  openstack server stop web
  until_true 120 server_is stopped
  openstack server remove volume web "$volume"
  until_true 60 volume_is "$volume" available
  openstack server add volume --device /dev/vdb web "$volume"
  until_true 60 volume_is "$volume" in-use
  openstack server start web
  until_true 120 server_is active
  wait_for_writes web vdb 20
  assert_of_one_mind
}
snapshot_is() { [[ $(sql cinder "select status from snapshots where id = '$1'") == "$2" ]]; }
server_is() { [[ $(sql nova "select vm_state from instances where deleted = 0 and display_name = 'web'") == "$1" ]]; }

# No room in the target pool: refused, by PoolShift or, when it has looked since, by Cinder's scheduler; all is as it was.
test_target_pool_over_quota() {
  local to pool stored before type
  before=$(image_of "$volume")
  type=$(type_of "$volume")
  to=$(other_type)
  pool=volumes-$to
  stored=$(ceph_admin df --format json | jq --arg pool "$pool" '.pools[] | select(.name == $pool).stats.stored')
  at_end service restart cinder-volume # the scheduler hears of the room again
  at_end ceph_admin osd pool set-quota "$pool" max_bytes 0
  ceph_admin osd pool set-quota "$pool" max_bytes $((stored + 16 * MiB))
  retype "$volume" "$to"
  until_true 120 settled "$volume"
  assert_equal "$(type_of "$volume")" "$type" "type of the volume"
  assert_equal "$(image_of "$volume")" "$before" "image of the volume"
  assert_of_one_mind
}

# --- somebody dies -----------------------------------------------------------------------------------------------------

# Of one mind, and so after a hard reboot, which goes by Nova's records.
assert_settles() {
  until_true $kSettledSeconds settled "$volume"
  assert_of_one_mind
  reboot_hard
  assert_of_one_mind
}

nova_compute_dies_in() {
  local job
  begin_slow_retype "$@"
  service kill nova-compute
  service start nova-compute
  assert_settles
}
test_nova_compute_dies_while_copying() { nova_compute_dies_in copy engine=mirror; }
test_nova_compute_dies_while_hydrating() { nova_compute_dies_in hydrate engine=handover; }

# Cinder does not answer when Nova wants to tell it, and nova-compute dies before it could.
test_nova_compute_dies_after_the_pivot() {
  local job before
  before=$(disk_image "$domain" vdb)
  begin_slow_retype copy engine=mirror
  at_end service continue cinder-api
  service pause cinder-api
  until_true 60 is_on_another_image "$before"
  service kill nova-compute
  service continue cinder-api
  service start nova-compute
  assert_settles
}
is_on_another_image() { [[ $(disk_image "$domain" vdb) != "$1" ]]; }

dies_while_copying() {
  local job
  begin_slow_retype copy engine=mirror
  service kill "$1"
  service start "$1"
  assert_settles
}
test_cinder_api_dies() { dies_while_copying cinder-api; }
test_cinder_volume_dies() { dies_while_copying cinder-volume; }
test_libvirtd_dies() { dies_while_copying libvirtd; }
test_rabbitmq_dies() {
  local job
  begin_slow_retype copy engine=mirror
  service kill rabbitmq
  service start rabbitmq
  service wait all
  assert_settles
}

# --- the retype that loses data ------------------------------------------------------------------------------------------

# Cinder copies the image itself and puts the one that the server uses into the trash.
test_rescue_after_the_retype_that_loses_data() {
  local before to=volumes-ssd/volume-$lost
  wait_for_writes web vdd 20
  before=$(disk_image "$domain" vdd)
  retype "$lost" ssd-same
  until_true 120 settled_as "$lost" ssd-same
  assert_equal "$(disk_image "$domain" vdd)" "$before" "disk of the running domain"
  poolshift doctor --json
  assert_exit 5
  assert_report 'any(.findings[]; .name == "image_in_trash")'
  at_end drop_image "volumes-ssd/poolshift.stale.volume-$lost"
  poolshift rescue --domain "$domain" --disk vdd --to "$to" --json
  assert_exit 0
  assert_equal "$(disk_image "$domain" vdd)" "$to" "disk of the running domain"
  wait_for_writes web vdd 20
  assert_server_data vdd "$to"
}

run_tests boot
