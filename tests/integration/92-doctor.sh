#!/bin/bash
# What `poolshift doctor` finds on a real node: the hook as the real libvirtd has seen it, users that the cluster refuses,
# programs and folders, jobs.
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/functions.sh"

kHook=$POOLSHIFT_BUILD_DIR/hooks/poolshift-qemu-hook
kHookFolder=$STACK_LIBVIRT_ETC/hooks/qemu.d
kInstalled=$kHookFolder/50-poolshift
image=volumes-hdd/doctor-$kFileTag
web=$(name web)

setup() {
  export POOLSHIFT_POLICY_DIR=$base/policy
  mkdir "$POOLSHIFT_POLICY_DIR"
  new_image "$image" 64M
  start_guest "$web" --disk "vda=$image" --paused
}

# diagnosed EXIT-STATUS [OPTION]...: what the doctor says is in the report, and nothing was changed.
diagnosed() {
  local expected=$1
  shift
  poolshift doctor --json "$@"
  assert_exit "$expected"
  assert_report '.summary == (.findings | map(.result) | {fail: map(select(. == "fail")) | length,
    warn: map(select(. == "warn")) | length, info: map(select(. == "info")) | length, pass: map(select(. == "pass")) | length})'
}

# assert_finding NAME RESULT REGEX: one of this name has this result and says so.
assert_finding() {
  assert_report 'any(.findings[]; .name == $name and .result == $result and (.found + " " + .do | test($regex)))' \
    --arg name "$1" --arg result "$2" --arg regex "$3"
}

test_well() {
  diagnosed 0
  assert_finding libvirt pass 'libvirt [0-9]'
  assert_finding guardian pass "$POOLSHIFT_GUARDIAN"
  assert_finding qemu_img pass 'qemu-img version'
  assert_finding cluster pass "$STACK_FSID answers user '$STACK_CEPH_USER'"
  assert_finding pool pass 'volumes-hdd'
  assert_finding hook info 'is not in'
  # For people the failures come first and a summary last.
  poolshift doctor
  assert_exit 0
  assert_equal "$(tail -n 1 "$T/out" | grep -Ec '^FAIL 0, warn 0, info [0-9]+, pass [0-9]+$')" 1 "summary lines"
}

install_hook() { install -m "${1:-755}" "$kHook" "$kInstalled"; }
remove_hook() { rm -f "$kInstalled"; }

test_hook_seen_by_libvirtd() {
  at_end libvirtd restart
  at_end remove_hook
  install_hook
  diagnosed 8
  assert_finding hook warn 'after libvirtd started.*systemctl restart libvirtd'
  # It is as it says: the domain has a hook only after the restart.
  libvirtd restart
  diagnosed 0
  assert_finding hook pass "'/etc/libvirt/hooks/qemu.d/50-poolshift' was there when libvirtd started"
  # One that comes anew is seen where there was one before.
  cp "$kInstalled" "$kHookFolder/60-other"
  at_end rm -f "$kHookFolder/60-other"
  libvirtd restart
  install_hook
  diagnosed 0
  assert_finding hook pass 'was there'
}

test_hook_that_is_not_sound() {
  at_end remove_hook
  install_hook 777
  diagnosed 5
  assert_finding hook fail 'others may change it'
  install_hook 644
  diagnosed 5
  assert_finding hook fail 'is not executable'
  remove_hook
  printf '#!/bin/sh\necho poolshift-qemu-hook 0.0.1\n' >"$kInstalled"
  chmod 755 "$kInstalled"
  diagnosed 8
  assert_finding hook warn '0\.0\.1'
}

test_policy() {
  at_end rm -f "$POOLSHIFT_POLICY_DIR/10.json"
  echo '{"schema":1,"rules":[{"name":"one","match":{"pool":"hdd"},"swap":{"pool":"ssd"}}]}' >"$POOLSHIFT_POLICY_DIR/10.json"
  diagnosed 8
  assert_finding policy warn 'without the hook'
  echo '{' >"$POOLSHIFT_POLICY_DIR/10.json"
  diagnosed 8
  assert_finding policy warn '10\.json'
}

restore_key() { virsh secret-set-value "$STACK_SECRET_UUID" --file "$STACK_DIR/ceph/cinder.key"; }

test_wrong_key() {
  at_end restore_key
  ceph-authtool --gen-print-key >"$T/key"
  virsh secret-set-value "$STACK_SECRET_UUID" --file "$T/key"
  local began=$SECONDS
  diagnosed 5
  ((SECONDS - began < 90)) || fail "it took $((SECONDS - began)) s"
  assert_finding cluster fail "domain '$web'.*user '$STACK_CEPH_USER'.*key"
}

rights() {
  ceph_admin auth caps "client.$STACK_CEPH_USER" mon 'profile rbd' mgr 'profile rbd' \
    osd "$1 pool=volumes-hdd, profile rbd pool=volumes-ssd"
}

test_rights_to_read_only() {
  at_end rights 'profile rbd'
  rights 'profile rbd-read-only'
  diagnosed 5
  assert_finding pool fail "user '$STACK_CEPH_USER'.*volumes-hdd"
}

test_no_guardian() {
  diagnosed 5 --guardian "$T/none"
  assert_finding guardian fail "$T/none"
}

test_overlays_out_of_reach() {
  mkdir -m 700 "$T/locked"
  mkdir "$T/locked/overlays"
  diagnosed 5 --overlay-dir "$T/locked/overlays"
  assert_finding overlay_dir fail "$T.*chmod"
}

test_libvirtd_away() {
  at_end libvirtd start
  libvirtd stop
  diagnosed 5 --patience 1
  assert_finding libvirt fail 'libvirtd'
}

run_tests setup
