#!/bin/bash
# What is refused because of the domain, its disk or the source image. A refused request changes nothing.
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/functions.sh"

web=$(name web)
source=volumes-hdd/source-$kFileTag
target=volumes-ssd/target-$kFileTag
shared=volumes-hdd/shared-$kFileTag

boot() {
  new_image "$source" 128M
  new_image "$shared" 64M
  new_image "$target" 128M
  start_guest "$web" --disk "vda=$source,discard=unmap" --disk "vdb=$shared,shareable" \
    --file-disk "vdc=$T/disk.raw,size=16M" --workload vda=mode=random,rate=20,span=16M,fill=16M --wait-filled
}

# refused CHECK REGEX SWAP-OPTIONS...
refused() {
  local check=$1 found=$2
  shift 2
  unchanged_by poolshift swap --json --progress none "$@"
  assert_refused "$check" "$found"
}

test_unknown_domain() {
  refused domain 'no-such-domain' --domain no-such-domain --disk vda --to "$target"
  refused domain '00000000-0000-4000-8000-000000000000' --domain 00000000-0000-4000-8000-000000000000 --disk vda --to "$target"
}

# Of one whose image is there 35-offline.sh has more.
test_domain_that_is_shut_off_without_its_image() {
  local off xml
  off=$(name off)
  xml=$(guest start "$off" --disk "vda=volumes-hdd/off-$kFileTag" --xml-only)
  at_end virsh undefine "$off"
  virsh define <(echo "$xml")
  refused source "off-$kFileTag" --domain "$off" --disk vda --to "$target"
}

test_unknown_disk() {
  refused disk "has no disk 'vdz'" --domain "$web" --disk vdz --to "$target"
  assert_report '.error.advice | test("vda")'
}

test_disk_that_is_a_file() {
  refused disk 'not an RBD image' --domain "$web" --disk vdc --to "$target"
}

test_shareable_disk() {
  refused shareable 'shareable' --domain "$web" --disk vdb --to "$target"
}

# refused_with_xml SED-SCRIPT FOUND: a domain with that change in its disk's XML, shut off and running.
refused_with_xml() {
  local script=$1 found=$2 odd image=volumes-hdd/odd-$kFileTag
  odd=$(name odd)
  new_image "$image" 64M
  guest start "$odd" --disk "vda=$image" --xml-only | sed "$script" >"$T/odd.xml"
  at_end virsh undefine "$odd"
  virsh define "$T/odd.xml"
  refused disk_xml "$found" --domain "$odd" --disk vda --to "volumes-ssd/odd-$kFileTag" --create
  mkdir -p "$(dirname -- "$(guest log "$odd")")"
  virsh start "$odd" --paused
  at_end virsh destroy "$odd"
  refused disk_xml "$found" --domain "$odd" --disk vda --to "volumes-ssd/odd-$kFileTag" --create
  refused disk_xml "$found" --domain "$odd" --disk vda --to "volumes-ssd/odd-$kFileTag" --create --engine mirror
  unchanged_by poolshift check --json --domain "$odd" --disk vda --to "volumes-ssd/odd-$kFileTag" --create
  assert_exit 3
}

# The new source would have no slice: the guest would read another part of the image.
test_disk_with_slices() {
  refused_with_xml "s#<source protocol='rbd'[^>]*>#&<slices><slice type='storage' offset='4194304' size='8388608'/></slices>#" \
    'has <slices> in <source>, which PoolShift does not support'
}

# QEMU's filter for it keeps the source open.
test_disk_that_copies_on_read() {
  refused_with_xml "s#<driver name='qemu'#& copy_on_read='on'#" "has copy_on_read='on' of <driver>"
}

test_source_that_the_disk_is_not_on() {
  refused disk_source "is on $source, the request names $shared" --domain "$web" --disk vda --from "$shared" --to "$target"
}

test_other_block_job() {
  local other=volumes-ssd/other-job-$kFileTag
  new_image "$other" 128M
  virsh dumpxml "$web" | sed -n "/<disk type='network'/,/<\\/disk>/p" | sed -n '1,/<\/disk>/p' |
    sed "s#$source#$other#; /<address/d; /<alias/d; /index=/s/ index='[0-9]*'//" >"$T/other.xml"
  at_end virsh blockjob "$web" vda --abort
  virsh blockcopy "$web" vda --xml "$T/other.xml" --reuse-external --transient-job --bytes --bandwidth 1000000
  refused block_job 'block job already' --domain "$web" --disk vda --to "$target"
}

# By a QEMU of which this libvirtd knows nothing, as on another host.
test_source_open_in_a_second_qemu() {
  qemu-system-x86_64 -machine none -nodefaults -display none -S \
    -blockdev "driver=rbd,node-name=second,pool=${source%/*},image=${source#*/},conf=$STACK_CEPH_CONF" </dev/null &
  at_end wait $!
  at_end kill $!
  until_true 20 has_watchers "$source" 2
  refused source_watchers 'open in 2 clients' --domain "$web" --disk vda --to "$target"
}

test_source_in_another_domain() {
  local other
  other=$(name other)
  start_guest "$other" --paused --disk "vdb=$source,shareable"
  refused other_domains "source $source is also disk 'vdb' of domain '$other'" --domain "$web" --disk vda --to "$target"
  # Only defined: it could be started at any time.
  virsh destroy "$other"
  refused other_domains "source $source is also disk 'vdb' of domain '$other'" --domain "$web" --disk vda --to "$target"
}

test_source_with_snapshots_to_the_trash() {
  at_end rbd_admin snap rm "$source@kept"
  rbd_admin snap create "$source@kept"
  refused source_snapshots 'has snapshots' --domain "$web" --disk vda --to "$target" --source trash
  unchanged_by poolshift check --json --domain "$web" --disk vda --to "$target"
  assert_exit 0
  assert_report '[.checks[] | select(.name == "source_snapshots" and .result == "warn")] | length == 1'
}

test_disk_that_is_being_moved() {
  remember_jobs
  at_end empty_trash volumes-ssd
  start_swap "$web" vda "$target" --bandwidth 1M
  wait_for_job
  until_true 60 copied_some
  swap "$web" vda "volumes-ssd/another-$kFileTag" --create
  assert_refused block_job 'block job already'
  poolshift cancel "$job"
  await_swap
  assert_exit 6
}

# Neither a dry run nor a check, and the plan is told.
test_what_would_be_done() {
  unchanged_by poolshift swap --domain "$web" --disk vda --to "$target" --engine mirror --dry-run --json
  assert_exit 0
  assert_report '.state == "checked" and .job == null and .error == null and (.plan | .engine == "mirror" and
    .creates_target == false and .source_after == "keep") and ([.checks[].result] | all(. == "pass"))'
  unchanged_by poolshift check --domain "$web" --disk vda --to "volumes-ssd/new-$kFileTag" --create
  assert_exit 0
  grep -q '^plan' "$T/out" || fail "no plan: $(<"$T/out")"
  grep -Eq '^pass +target ' "$T/out" || fail "no table: $(<"$T/out")"
  ! image_exists "volumes-ssd/new-$kFileTag" || fail "a check has created the target"
}

run_tests boot
