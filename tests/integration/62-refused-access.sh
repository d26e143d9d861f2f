#!/bin/bash
# What is refused because the cluster cannot be used as asked: keys, rights, another cluster, nobody there.
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/functions.sh"

web=$(name web)
source=volumes-hdd/source-$kFileTag
target=volumes-ssd/target-$kFileTag
other_cluster=$STACK_DIR/../other-$kFileTag

boot() {
  new_image "$source" 64M
  new_image "$target" 64M
  start_guest "$web" --disk "vda=$source,discard=unmap"
}

refused() {
  local check=$1 found=$2 to=$3
  shift 3
  unchanged_by swap "$web" vda "$to" "$@"
  assert_refused "$check" "$found"
}

restore_key() { virsh secret-set-value "$STACK_SECRET_UUID" --file "$STACK_DIR/ceph/cinder.key"; }

# Monitors that are spoken to by the old protocol do not answer a wrong key at all.
test_wrong_key() {
  at_end restore_key
  ceph-authtool --gen-print-key >"$T/key"
  virsh secret-set-value "$STACK_SECRET_UUID" --file "$T/key"
  unchanged_by swap "$web" vda "$target" --patience 5
  assert_exit 3
  assert_report '.state == "refused" and .job == null and (.error | (.message | test("user .cinder")) and (.advice | test("key")))'
}

test_no_rights_on_the_target_pool() {
  local image=$kForbiddenPool/target-$kFileTag
  new_image "$image" 64M
  refused target_rights "$kForbiddenPool" "$image"
  refused target_rights "$kForbiddenPool" "$kForbiddenPool/new-$kFileTag" --create
}

read_only_rights() {
  ceph_admin auth caps "client.$STACK_CEPH_USER" mon 'profile rbd' mgr 'profile rbd' \
    osd "profile rbd pool=volumes-hdd, $1 pool=volumes-ssd"
}

test_rights_to_read_only() {
  at_end read_only_rights 'profile rbd'
  read_only_rights 'profile rbd-read-only'
  refused target_rights 'volumes-ssd' "$target"
}

test_another_cluster() {
  at_end rm -rf "$other_cluster"
  at_end "$tests/stack/down" "$other_cluster"
  "$tests/stack/up" "$other_cluster" --mon-only </dev/null
  # A stranger's key.
  refused cluster '.' "$target" --ceph-conf "$other_cluster/ceph/ceph.conf" --patience 5
  # The same user and key, so that it answers; only its fsid differs.
  ceph -c "$other_cluster/ceph/ceph.conf" auth import -i "$STACK_CEPH_KEYRING"
  refused cluster "$STACK_FSID" "$target" --ceph-conf "$other_cluster/ceph/ceph.conf" --patience 5
  assert_report '.error.message | test($fsid)' --arg fsid "$(ceph -c "$other_cluster/ceph/ceph.conf" fsid)"
}

# The same cluster, by file: allowed, by option and by CEPH_CONF.
test_configuration_file_of_the_same_cluster() {
  unchanged_by poolshift check --json --domain "$web" --disk vda --to "$target" --ceph-conf "$STACK_CEPH_CONF"
  assert_exit 0
  CEPH_CONF=$STACK_CEPH_CONF poolshift check --json --domain "$web" --disk vda --to "$target"
  assert_exit 0
}

test_configuration_file_that_is_not_there() {
  unchanged_by poolshift swap --json --domain "$web" --disk vda --to "$target" --ceph-conf "$T/no-such.conf" --patience 5
  assert_exit 3
  assert_report '.error.message | test("no-such.conf")'
}

test_libvirtd_that_is_not_there() {
  local kAccess=(--connect "qemu+unix:///system?socket=$T/no-such-socket")
  unchanged_by poolshift swap --json --domain "$web" --disk vda --to "$target" --patience 2
  assert_exit 3
  assert_report '.error.message != "" and .error.advice != ""'
}

run_tests boot
