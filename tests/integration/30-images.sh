#!/bin/bash
# Images that are not plain: clones, other sizes and layouts, data in another pool, namespaces.
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/functions.sh"

work=mode=random,rate=100,span=32M,fill=32M

# other_pool NAME [ERASURE-PROFILE]: a pool that the guests' user may use too.
other_pool() {
  at_end ceph_admin osd pool rm "$1" "$1" --yes-i-really-really-mean-it
  if (($# == 2)); then
    ceph_admin osd pool create "$1" 4 4 erasure "$2"
    ceph_admin osd pool set "$1" allow_ec_overwrites true
  else
    ceph_admin osd pool create "$1" 4 4 replicated
  fi
  ceph_admin osd pool application enable "$1" rbd
  at_end give_rights volumes-hdd volumes-ssd
  give_rights volumes-hdd volumes-ssd "$1"
}

give_rights() {
  local caps='' pool
  for pool in "$@"; do caps+="${caps:+, }profile rbd pool=$pool"; done
  ceph_admin auth caps "client.$STACK_CEPH_USER" mon 'profile rbd' mgr 'profile rbd' osd "$caps"
}

# The guest writes to an image, which then becomes the parent of the one that it goes on with.
test_clone_of_a_snapshot() {
  local web parent=volumes-hdd/parent-$kFileTag clone=volumes-hdd/clone-$kFileTag to=volumes-ssd/clone-$kFileTag
  web=$(name web)
  new_image "$parent" 256M
  at_end drop_image "$clone"
  at_end drop_image "$to"
  start_guest "$web" --disk "vda=$parent,discard=unmap" --workload "vda=mode=random,rate=100,span=8M,fill=48M" --wait-filled
  wait_for_writes "$web" vda 50
  virsh destroy "$web"
  rbd_admin snap create "$parent@base"
  rbd_admin clone --rbd-default-clone-format 2 "$parent@base" "$clone"
  virsh dumpxml "$web" --inactive | sed "s#$parent#$clone#" >"$T/clone.xml"
  virsh define "$T/clone.xml"
  virsh start "$web"
  wait_for_writes "$web" vda 50
  assert_data "$web" vda "$clone"

  swap "$web" vda "$to" --create
  assert_done "$clone" "$to"
  assert_on_target "$web" vda "$clone" "$to"
  assert_json <(rbd_admin info --format json "$to") '.parent == null'
  # Only what the clone itself and its parent held.
  (($(used_bytes "$to") <= 58 * MiB)) || fail "the target uses $(used_bytes "$to") bytes"
  wait_for_writes "$web" vda 50
  assert_data "$web" vda "$to"
  assert_json "$T/data.json" '.log.boots == 2'
}

# It ends at the target's size, and the guest sees it.
test_larger_target() {
  local web from=volumes-hdd/small-$kFileTag to=volumes-ssd/large-$kFileTag
  web=$(name web)
  new_image "$from" 256M
  new_image "$to" 320M
  start_guest "$web" --disk "vda=$from,discard=unmap" --workload "vda=$work" --wait-filled
  swap "$web" vda "$to"
  assert_done "$from" "$to"
  assert_report '.bytes.virtual == 320 * 1048576'
  assert_equal "$(image_size "$to")" $((320 * MiB)) "size of the target"
  assert_equal "$(image_size "$from")" $((256 * MiB)) "size of the source"
  assert_on_target "$web" vda "$from" "$to"
  guest wait "$web" "^S vda $((320 * MiB)) " 30
  wait_for_writes "$web" vda 50
  assert_data "$web" vda "$to"
}

# Neither a whole number of objects nor of MiB; the smallest disk that a larger target grows by.
test_odd_sizes() {
  local web from=volumes-hdd/odd-$kFileTag to=volumes-ssd/odd-$kFileTag back=volumes-hdd/odd-back-$kFileTag
  web=$(name web)
  new_image "$from" $((100 * MiB + 3 * 4096 + 512))B
  new_image "$back" $((100 * MiB + 3 * 4096 + 1024))B
  at_end drop_image "$to"
  start_guest "$web" --disk "vda=$from" --workload "vda=$work" --wait-filled
  swap "$web" vda "$to" --create
  assert_done "$from" "$to"
  assert_equal "$(image_size "$to")" $((100 * MiB + 3 * 4096 + 512)) "size of the created target"
  swap "$web" vda "$back"
  assert_done "$to" "$back"
  assert_equal "$(image_size "$back")" $((100 * MiB + 3 * 4096 + 1024)) "size of the larger target"
  assert_on_target "$web" vda "$to" "$back"
  wait_for_writes "$web" vda 50
  assert_data "$web" vda "$back"
}

# A created target has the source's layout, features and metadata; a given one keeps its own.
test_layout_and_metadata() {
  local web from=volumes-hdd/layout-$kFileTag to=volumes-ssd/layout-$kFileTag back=volumes-hdd/layout-back-$kFileTag
  local layout='[.size, .object_size, .stripe_unit, .stripe_count, .features - ["striping"]]'
  web=$(name web)
  new_image "$from" 128M --object-size 1M --stripe-unit 64K --stripe-count 4 --image-feature layering,exclusive-lock
  rbd_admin image-meta set "$from" label 'a b'
  new_image "$back" 128M --object-size 8M
  at_end drop_image "$to"
  start_guest "$web" --disk "vda=$from,discard=unmap" --workload "vda=$work" --wait-filled
  swap "$web" vda "$to" --create
  assert_done "$from" "$to"
  assert_equal "$(rbd_admin info --format json "$to" | jq -c "$layout")" \
    "$(rbd_admin info --format json "$from" | jq -c "$layout")" "layout of the created target"
  assert_equal "$(rbd_admin image-meta get "$to" label)" 'a b' "metadata of the created target"
  swap "$web" vda "$back"
  assert_done "$to" "$back"
  assert_json <(rbd_admin info --format json "$back") '.object_size == 8388608 and .stripe_count == null'
  assert_on_target "$web" vda "$to" "$back"
  wait_for_writes "$web" vda 50
  assert_data "$web" vda "$back"
}

# data_pool POOL: there, and back to a plain image.
data_pool() {
  local pool=$1 web from=volumes-hdd/data-$kFileTag to=volumes-ssd/data-$kFileTag back=volumes-hdd/data-back-$kFileTag
  web=$(name web)
  new_image "$from" 128M
  new_image "$to" 128M --data-pool "$pool"
  at_end drop_image "$back"
  start_guest "$web" --disk "vda=$from,discard=unmap" --workload "vda=$work" --wait-filled
  swap "$web" vda "$to"
  assert_done "$from" "$to"
  assert_json <(rbd_admin info --format json "$to") '.data_pool == $pool' --arg pool "$pool"
  assert_on_target "$web" vda "$from" "$to"
  assert_data "$web" vda "$to"
  swap "$web" vda "$back" --create
  assert_done "$to" "$back"
  assert_json <(rbd_admin info --format json "$back") '.data_pool == null'
  assert_on_target "$web" vda "$to" "$back"
  wait_for_writes "$web" vda 50
  assert_data "$web" vda "$back"
}

test_replicated_data_pool() {
  other_pool volumes-data
  data_pool volumes-data
}

test_erasure_coded_data_pool() {
  at_end ceph_admin osd erasure-code-profile rm two-and-one
  ceph_admin osd erasure-code-profile set two-and-one k=2 m=1 crush-failure-domain=osd
  other_pool volumes-ec two-and-one
  data_pool volumes-ec
}

# libvirt before 11.6 takes POOL/NAMESPACE/IMAGE for the image NAMESPACE/IMAGE of the default namespace.
test_namespace_is_refused_where_libvirt_knows_none() {
  local web from=volumes-hdd/ns-$kFileTag version
  version=$(virsh version | sed -n 's/^Using library: libvirt \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
  read -r major minor <<<"$version"
  ((major < 11 || (major == 11 && minor < 6))) || skip "libvirt $major.$minor knows namespaces"
  web=$(name web)
  new_image "$from" 64M
  at_end rbd_admin namespace remove volumes-ssd/tenant
  rbd_admin namespace create volumes-ssd/tenant
  new_image "volumes-ssd/tenant/ns-$kFileTag" 64M
  start_guest "$web" --disk "vda=$from"
  unchanged_by swap "$web" vda "volumes-ssd/tenant/ns-$kFileTag"
  assert_refused rbd_namespace namespace
  unchanged_by swap "$web" vda "volumes-ssd/tenant/new-$kFileTag" --create
  assert_refused rbd_namespace namespace
  assert_equal "$(rbd_admin ls volumes-ssd/tenant)" "ns-$kFileTag" "images of the namespace"
}

run_tests
