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

# --- a server with two disks to move ---------------------------------------------------------------------------------

boot() {
  export S=$OPENSTACK_POOLSHIFT_STATE_DIR POOLSHIFT_STATE_DIR=$OPENSTACK_POOLSHIFT_STATE_DIR
  POOLSHIFT_OVERLAY_DIR=$OPENSTACK_POOLSHIFT_OVERLAY_DIR
  local work=mode=random,rate=50,span=48M,fill=48M
  server image writer "vdb=$work" "vdc=$work"
  openstack server create --image writer --flavor small --nic none --wait web
  server follow web
  domain=$(server domain web)
  volume=$(attach hdd vdb)
  lost=$(attach hdd-same vdc)
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
  [[ $(sql cinder "select concat(status, ' ', ifnull(migration_status, '')) from volumes where id = '$1'") =~ ^in-use\ (success|error)?$ ]]
}
settled_as() { settled "$1" && [[ $(type_of "$1") == "$2" ]]; }
type_of() {
  sql cinder "select t.name from volumes v join volume_types t on t.id = v.volume_type_id where v.id = '$1'"
}

# The image that Cinder means: after a migration it has the name of another id.
image_of() {
  local pool=volumes-${2%-same}
  echo "$pool/volume-$(sql cinder "select ifnull(_name_id, id) from volumes where id = '$1'")"
}

# Cinder, Nova, libvirt and the cluster name the same image, and no other is left.
assert_of_one_mind() {
  local image bdm
  image=$(image_of "$volume" "$(type_of "$volume")")
  assert_equal "$(disk_image "$domain" vdb)" "$image" "disk of the running domain"
  assert_equal "$(disk_image "$domain" vdb --inactive)" "$image" "disk of the persistent domain"
  bdm=$(sql nova "select connection_info from block_device_mapping where deleted = 0 and volume_id = '$volume'")
  assert_equal "$(jq -r .data.name <<<"$bdm")" "$image" "image in Nova's BDM"
  assert_equal "$(sql cinder "select count(*) from volume_attachment where deleted = 0 and volume_id = '$volume' and attach_status = 'attached'")" \
    1 "attachments of the volume"
  assert_equal "$(sql cinder "select count(*) from volumes where deleted = 0 and id <> '$lost'")" 1 "volumes of Cinder"
  until_true 45 has_watchers "$image" 1 || fail "watchers of $image: $(watchers "$image")"
  wait_for_writes web vdb 20
  assert_server_data vdb "$image"
}

other_type() { if [[ $(type_of "$volume") == hdd ]]; then echo ssd; else echo hdd; fi; }

# begin_slow_retype: returns when the data is being copied, by $job.
begin_slow_retype() {
  at_end limit 0
  limit 4
  remember_jobs
  retype "$volume" "$(other_type)"
  until_true 60 new_job
  wait_for_phase copy
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

# limit MIB-PER-S: of swaps from now on; 0: none.
limit() {
  sed -i '/^bandwidth = /d; s/^\[poolshift\]$/&\nbandwidth = '"$1"'/' "$OPENSTACK_NOVA_CONF"
  service restart nova-compute
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

test_hard_reboot_after_a_retype() {
  local to
  to=$(other_type)
  retype "$volume" "$to"
  until_true 120 settled_as "$volume" "$to"
  openstack server reboot --hard --wait web
  assert_of_one_mind
}

test_nova_compute_dies_while_copying() {
  local job
  begin_slow_retype
  service kill nova-compute
  service start nova-compute
  until_true $kSettledSeconds settled "$volume"
  assert_of_one_mind
  openstack server reboot --hard --wait web
  assert_of_one_mind
}

# Cinder does not answer when Nova wants to tell it, and nova-compute dies before it could.
test_nova_compute_dies_after_the_pivot() {
  local job before
  before=$(disk_image "$domain" vdb)
  begin_slow_retype
  at_end service continue cinder-api
  service pause cinder-api
  until_true 60 is_on_another_image "$before"
  service kill nova-compute
  service continue cinder-api
  service start nova-compute
  until_true $kSettledSeconds settled "$volume"
  assert_of_one_mind
  openstack server reboot --hard --wait web
  assert_of_one_mind
}
is_on_another_image() { [[ $(disk_image "$domain" vdb) != "$1" ]]; }

# Cinder copies the image itself and puts the one that the server uses into the trash.
test_rescue_after_the_retype_that_loses_data() {
  local before to=volumes-ssd/volume-$lost
  before=$(disk_image "$domain" vdc)
  retype "$lost" ssd-same
  until_true 120 settled_as "$lost" ssd-same
  assert_equal "$(disk_image "$domain" vdc)" "$before" "disk of the running domain"
  poolshift doctor --json
  assert_exit 5
  assert_report 'any(.findings[]; .name == "image_in_trash")'
  at_end drop_image "volumes-ssd/poolshift.stale.volume-$lost"
  poolshift rescue --domain "$domain" --disk vdc --to "$to" --json
  assert_exit 0
  assert_equal "$(disk_image "$domain" vdc)" "$to" "disk of the running domain"
  wait_for_writes web vdc 20
  assert_server_data vdc "$to"
}

run_tests boot
