#!/bin/bash
# Thin stays thin: with and without object map, with and without discard='unmap' on the source disk.
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/functions.sh"

kSize=768M
kData=64M
web=$(name web)

# Four disks of one guest, each with its data spread over the whole disk, so that each object holds a little.
boot() {
  local disks=() disk
  for disk in vda vdb vdc vdd; do at_end drop_image "volumes-ssd/thin-$disk-$kFileTag"; done
  new_image "volumes-hdd/thin-vda-$kFileTag" $kSize
  new_image "volumes-hdd/thin-vdb-$kFileTag" $kSize
  new_image "volumes-hdd/thin-vdc-$kFileTag" $kSize --image-feature layering,exclusive-lock
  new_image "volumes-hdd/thin-vdd-$kFileTag" $kSize --image-feature layering,exclusive-lock
  for disk in vda vdb vdc vdd; do
    case $disk in
      vda | vdc) disks+=(--disk "$disk=volumes-hdd/thin-$disk-$kFileTag,discard=unmap") ;;
      *) disks+=(--disk "$disk=volumes-hdd/thin-$disk-$kFileTag") ;;
    esac
    disks+=(--workload "$disk=mode=idle,fill=$kData,spread=$kSize")
  done
  start_guest "$web" "${disks[@]}" --wait-filled
}

# objects IMAGE: how many there are really; an object full of zeroes counts.
objects() {
  local prefix
  prefix=$(rbd_admin info --format json "$1" | jq -r .block_name_prefix)
  rados -c "$STACK_CEPH_CONF" -p "${1%%/*}" ls | grep -c "^$prefix\."
}

stays_thin() {
  local disk=$1 from=volumes-hdd/thin-$1-$kFileTag to=volumes-ssd/thin-$1-$kFileTag source target
  swap "$web" "$disk" "$to" --create
  assert_done "$from" "$to"
  assert_on_target "$web" "$disk" "$from" "$to"
  source=$(used_bytes "$from")
  target=$(used_bytes "$to")
  say "source $source bytes in $(objects "$from") objects, target $target bytes in $(objects "$to") objects"
  ((source >= 64 * MiB && source < 128 * MiB)) || fail "the test is wrong: the source uses $source bytes"
  ((target * 100 <= source * 102)) || fail "the target uses $target bytes, the source $source"
  (($(objects "$to") <= $(objects "$from"))) || fail "the target has $(objects "$to") objects, the source $(objects "$from")"
  assert_report '.bytes | .target_used <= .source_used * 1.02'
  assert_equal "$(jq .bytes.target_used "$T/report.json")" "$target" "bytes that the report gives"
  assert_data "$web" "$disk" "$to"
}

test_object_map_and_unmap() { stays_thin vda; }
test_object_map_without_unmap() { stays_thin vdb; }
test_unmap_without_object_map() { stays_thin vdc; }
test_neither() { stays_thin vdd; }

run_tests boot
