#!/bin/bash
# Retypes of an attached volume, by a real Cinder and a real Nova, under a server that writes; also when a service dies in
# the middle. Run by tests/openstack/run.
# shellcheck disable=SC2016 # $x in quotes is jq's
# shellcheck source=tests/openstack/server.sh
. "$(dirname -- "$0")/server.sh"

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
  say 'reboots'
  openstack server reboot --soft --wait web
  reboot_hard
  assert_of_one_mind
  say 'snapshot'
  snapshot=$(openstack volume snapshot create --force --volume "$volume" one -f value -c id)
  until_true 60 snapshot_is "$snapshot" available
  openstack volume snapshot delete "$snapshot"
  until_true 60 snapshot_is "$snapshot" deleted
  say 'stop, detach, attach, start'
  openstack server stop web
  until_true 120 server_is web stopped
  openstack server remove volume web "$volume"
  until_true 60 volume_is "$volume" available
  openstack server add volume --device /dev/vdb web "$volume"
  until_true 60 volume_is "$volume" in-use
  openstack server start web
  until_true 120 server_is web active
  wait_for_writes web vdb 20
  assert_of_one_mind
}
snapshot_is() { [[ $(sql cinder "select status from snapshots where id = '$1'") == "$2" ]]; }

# nova-compute goes on serving: while one volume is copied, another server starts from a boot volume, stops and starts
# again; then that boot volume, a clone of an image, is moved there and back.
test_another_server_and_its_boot_volume() {
  local job root to i
  server image root-writer vda=mode=random,rate=20,span=48M,fill=8M
  at_end openstack image delete root-writer
  root=$(new_volume 1 --type any --image root-writer)
  at_end delete_volume "$root"
  begin_slow_retype copy engine=mirror
  poolshift set "$job" --bandwidth 1M
  assert_exit 0
  at_end openstack server delete --wait other
  openstack server create --volume "$root" --flavor small --nic none --wait other
  server follow other
  openstack server stop other
  until_true 60 server_is other stopped
  openstack server start other
  until_true 60 server_is other active
  assert_equal "$(journal_phase "$S/jobs/$job.journal")" copy 'phase of the job meanwhile'
  poolshift set "$job" --bandwidth 0
  assert_exit 0
  until_true 120 settled "$volume"
  assert_of_one_mind
  server wait other '^FILLED vda ' 120
  configure
  for i in there back; do
    say "the boot volume, $i"
    to=$(other_backend "$root")
    openstack volume migrate --host "cloud@$to#$to" "$root"
    until_true 120 is_in "$to" "$root"
    assert_of_one_mind "$root" vda other --first $((50 * MiB))
    server inherited "$(image_of "$root")" || fail 'what came with the image is not there'
  done
}

# As Nova's own API does it: the larger volume takes the place of the other, which stays. The log says how far it is.
test_swap_for_a_larger_volume() {
  local larger job
  at_end configure
  configure bandwidth=1 engine=mirror
  larger=$(new_volume 2 --type any)
  nova volume-update web "$second" "$larger"
  until_true 120 volume_is "$second" available
  until_true 60 settled "$larger"
  assert_of_one_mind "$larger" vdc
  job=$(newest_journal)
  job=${job##*/}
  grep -Eq "PoolShift job ${job%.journal}: copy [0-9]{2} %" "$(service log nova-compute)" || fail 'no progress in the log'
  assert_equal "$(virsh domblkinfo "$domain" vdc | awk '/^Capacity/ { print $2 }')" $((2 * GiB)) 'size that the guest sees'
}

# --- refused ---------------------------------------------------------------------------------------------------------

# No room in the target pool: refused by PoolShift or, when it has looked since, by Cinder's scheduler.
test_target_pool_over_quota() {
  local to pool counted_bytes
  to=$(other_type)
  pool=volumes-$to
  pool_is_counted
  counted_bytes=$(ceph_admin osd pool get-quota "$pool" --format json | jq .current_num_bytes)
  at_end service restart cinder-volume # the scheduler hears of the room again
  at_end ceph_admin osd pool set-quota "$pool" max_bytes 0
  ceph_admin osd pool set-quota "$pool" max_bytes $((counted_bytes + 16 * MiB))
  refused "$volume" retype_without_room "$to" "$pool"
  assert_of_one_mind
}
# Each OSD reports every five seconds how much it has, and the manager counts anew more often.
pool_is_counted() { until_true 60 counted_more_often_than $(($(times_counted) + 8)); }
times_counted() { ceph_admin pg dump --format json 2>/dev/null | jq .pg_map.version; }
counted_more_often_than() { (($(times_counted) > $1)); }
# Without room Cinder cannot even delete the volume that it has made for the purpose.
retype_without_room() {
  retype "$volume" "$1"
  until_true 120 volume_is "$volume" in-use
  ceph_admin osd pool set-quota "$2" max_bytes 0
}

# The room goes while the data comes: the copy waits, the guest does not. With room again it goes on to its end.
test_target_pool_is_full_while_copying() {
  local job pool
  pool=volumes-$(other_type)
  at_end service restart cinder-volume
  at_end ceph_admin osd pool set-quota "$pool" max_bytes 0
  begin_slow_retype copy engine=mirror
  ceph_admin osd pool set-quota "$pool" max_bytes 4096
  until_true 60 is_full "$pool"
  poolshift set "$job" --bandwidth 0
  wait_for_writes web vdb 500
  assert_equal "$(journal_phase "$S/jobs/$job.journal")" copy 'phase of the job meanwhile'
  ceph_admin osd pool set-quota "$pool" max_bytes 0
  until_true $kSettledSeconds settled_as "$volume" "${pool#volumes-}"
  assert_of_one_mind
}
is_full() {
  ceph_admin osd dump --format json |
    jq -e --arg pool "$1" '.pools[] | select(.pool_name == $pool).flags_names | test("full")'
}

test_volume_with_a_snapshot() {
  local snapshot
  snapshot=$(openstack volume snapshot create --force --volume "$volume" one -f value -c id)
  at_end openstack volume snapshot delete "$snapshot"
  until_true 60 snapshot_is "$snapshot" available
  refused "$volume" retype "$volume" "$(other_type)"
  assert_of_one_mind
}

# Nova's rule for a volume that two servers write to.
test_volume_of_two_servers() {
  local id
  openstack volume type create --property multiattach='<is> True' --property tier:class=multi multi
  at_end openstack volume type delete multi
  id=$(new_volume 1 --type multi)
  at_end delete_volume "$id"
  at_end openstack server delete --wait other
  openstack server create --image guest --flavor small --nic none --wait other
  openstack server add volume web "$id"
  at_end openstack server remove volume web "$id"
  until_true 60 volume_is "$id" in-use
  openstack server add volume other "$id"
  until_true 60 is_attached_twice "$id"
  refused "$id" retype "$id" ssd
  refused "$id" openstack volume migrate --host "cloud@$(other_backend "$id")#$(other_backend "$id")" "$id"
  assert_equal "$(disk_image "$(server domain other)" vdb)" "$(image_of "$id")" 'disk of the other server'
  is_attached_twice "$id"
}
is_attached_twice() {
  [[ $(sql cinder "select count(*) from volume_attachment where deleted = 0 and volume_id = '$1' and
    attach_status = 'attached'") == 2 ]]
}

# tell_nova UUID: of this secret Cinder speaks when it says how its volumes are reached.
tell_nova() {
  sed -i "s/^#*rbd_secret_uuid=.*/rbd_secret_uuid=$1/" "$OPENSTACK_CINDER_CONF"
  service restart cinder-volume
}

test_secret_that_libvirt_does_not_know() {
  at_end tell_nova "$STACK_SECRET_UUID"
  tell_nova "$(</proc/sys/kernel/random/uuid)"
  refused "$volume" retype "$volume" "$(other_type)"
  assert_of_one_mind
}

# Cinder names no secret, so Nova takes its own user, who may not touch the target pool.
test_user_without_rights_on_the_target_pool() {
  local pool secret
  secret=$(</proc/sys/kernel/random/uuid)
  pool=$(image_of "$volume")
  pool=${pool%%/*}
  ceph_admin auth get-or-create client.poor mon 'profile rbd' mgr 'profile rbd' osd "profile rbd pool=$pool"
  at_end ceph_admin auth rm client.poor
  ceph_admin auth print-key client.poor >"$T/key"
  virsh secret-define /dev/stdin <<<"<secret ephemeral='yes' private='no'><uuid>$secret</uuid>
    <usage type='ceph'><name>client.poor</name></usage></secret>"
  at_end virsh secret-undefine "$secret"
  virsh secret-set-value "$secret" --file "$T/key"
  cp "$OPENSTACK_NOVA_CONF" "$T/nova.conf"
  at_end service restart nova-compute
  at_end cp "$T/nova.conf" "$OPENSTACK_NOVA_CONF"
  at_end tell_nova "$STACK_SECRET_UUID"
  sed -i "s/^rbd_user=.*/rbd_user=poor/; s/^rbd_secret_uuid=.*/rbd_secret_uuid=$secret/" "$OPENSTACK_NOVA_CONF"
  service restart nova-compute
  sed -i 's/^rbd_secret_uuid=/#&/' "$OPENSTACK_CINDER_CONF"
  service restart cinder-volume
  refused "$volume" retype "$volume" "$(other_type)"
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

# Between any two of the calls that Nova's manager makes when the driver has returned. Reboots go by Nova's records.
test_nova_compute_dies_between_its_last_calls() {
  local where api=nova.volume.cinder:API
  at_end service start nova-compute
  for where in "before $api.attachment_complete" "before $api.attachment_delete" "before $api.migrate_volume_completion" \
    "after $api.migrate_volume_completion"; do
    say "$where"
    echo "$where" >"$OPENSTACK_DIE_AT"
    service restart nova-compute
    rm "$OPENSTACK_DIE_AT"
    retype "$volume" "$(other_type)"
    until_true 120 is_dead nova-compute
    service start nova-compute
    until_true $kSettledSeconds settled "$volume"
    assert_of_one_mind
  done
  reboot_hard
  assert_of_one_mind
}
is_dead() { ! service pid "$1"; }

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

# A libvirtd that dies within the call that begins the copy leaves one that it does not know: such a job is held (ADR 7).
dies_while_copying() {
  local job
  begin_slow_retype copy engine=mirror
  until_true 60 copied_some
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
  ask_doctor
  assert_report 'any(.findings[]; .name == "cinder_types" and .result == "fail" and (.found | test("hdd-same.*ssd-same")))'
  assert_report 'all(.findings[]; .name | IN("image_in_trash", "cinder_image") | not)'
  before=$(disk_image "$domain" vdd)
  retype "$lost" ssd-same
  until_true 120 settled_as "$lost" ssd-same
  assert_equal "$(disk_image "$domain" vdd)" "$before" "disk of the running domain"
  ask_doctor
  assert_report 'any(.findings[]; .name == "image_in_trash")'
  assert_report 'any(.findings[]; .name == "cinder_image" and (.do | contains($to)))' --arg to "--disk vdd --to $to"
  at_end drop_image "volumes-ssd/poolshift.stale.volume-$lost"
  poolshift rescue --domain "$domain" --disk vdd --to "$to" --json
  assert_exit 0
  assert_equal "$(disk_image "$domain" vdd)" "$to" "disk of the running domain"
  wait_for_writes web vdd 20
  assert_data web vdd "$to"
  ask_doctor
  assert_report 'all(.findings[]; .name | IN("image_in_trash", "cinder_image") | not)'
}
# The cloud's types are among what it finds, always.
ask_doctor() {
  poolshift doctor --nova-conf "$OPENSTACK_NOVA_CONF" --json
  assert_exit 5
  assert_report 'any(.findings[]; .name == "nova_driver" and .result == "pass")'
}

# The last: a volume that was moved can be deleted, with its image.
test_delete_of_a_moved_volume() {
  local image
  image=$(image_of "$volume")
  openstack server remove volume web "$volume"
  delete_volume "$volume"
  ! image_exists "$image" || fail "$image is still there"
}

run_tests boot
