#!/bin/bash
# The real hook in the hook folder of the real libvirtd, which calls it for every domain of the stack.
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/functions.sh"

kHook=$POOLSHIFT_BUILD_DIR/hooks/poolshift-qemu-hook
kInstalled=$STACK_LIBVIRT_ETC/hooks/qemu.d/50-poolshift
kPolicies=$STACK_POOLSHIFT_ETC/policy.d
image=web-$$

# libvirt gives a hook no variables: what the hook reads is the stack's own /etc/poolshift and /var/lib/poolshift.
setup() {
  S=$STACK_POOLSHIFT_STATE
  export POOLSHIFT_STATE_DIR=$S
  at_end libvirtd restart
  at_end rm -f "$kInstalled"
  at_end forget_all
  install -m 755 "$kHook" "$kInstalled"
  libvirtd restart # which looks for hooks when it starts
}

forget_all() { rm -rf "${S:?}"/* "${kPolicies:?}"/*; }

queue() { cat "$S"/spool/queue/*.json 2>/dev/null || true; }
queued() { queue | jq -s length; }
assert_queued() {
  queue >"$T/queue.json"
  assert_json "$T/queue.json" "$@"
}

policy() { cat >"$kPolicies/$1.json"; }

# set_source DOMAIN IMAGE: in the persistent definition, of the one disk.
set_source() {
  virsh dumpxml --inactive "$1" | sed "s#<source protocol='rbd' name='[^']*'#<source protocol='rbd' name='$2'#" >"$T/redefined.xml"
  virsh define "$T/redefined.xml" >/dev/null
}

# refused_start DOMAIN REGEX...: virsh says so, and the domain stays off.
refused_start() {
  local domain=$1 regex
  shift
  if virsh start "$domain" >"$T/start.out" 2>"$T/start.err"; then fail "the start was not refused"; fi
  say "virsh start: $(<"$T/start.err")"
  for regex in "$@"; do grep -Eq -- "$regex" "$T/start.err" || fail "virsh does not show '$regex': $(<"$T/start.err")"; done
  assert_equal "$(state_of_domain "$domain")" 'shut off' "state of the domain"
}

# write_journal JQ-FILTER: the newest record of the one journal once more, changed.
write_journal() {
  local journal newest
  journal=$(journals)
  newest=$(tail -n 1 "$journal")
  jq -c "$1" <<<"${newest#* * }" | /usr/bin/python3 -c '
import sys
for line in sys.stdin.buffer:
    line, crc = line.rstrip(b"\n"), 0xFFFFFFFF
    for byte in line:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 & -(crc & 1))
    sys.stdout.buffer.write(b"%08x %d %s\n" % (crc ^ 0xFFFFFFFF, len(line), line))' >>"$journal"
}

# swapped: guest web was moved from volumes-hdd to volumes-ssd, and the source is there still; it is shut off.
swapped() {
  at_end forget_all
  at_end drop_image "volumes-hdd/$image"
  at_end drop_image "volumes-ssd/$image"
  start_guest web --disk "vda=volumes-hdd/$image,size=64M,discard=unmap"
  swap web vda "volumes-ssd/$image" --create
  assert_done "volumes-hdd/$image" "volumes-ssd/$image"
  virsh destroy web >/dev/null
}

test_nothing_to_do() {
  at_end drop_image "volumes-hdd/$image"
  start_guest web --disk "vda=volumes-hdd/$image,size=64M" --paused
  virsh destroy web >/dev/null
  [[ ! -e $S/spool ]] || fail "it made a spool"
}

test_retired_source() {
  swapped
  # On its target it starts, under the same hook.
  virsh start web --paused >/dev/null
  virsh destroy web >/dev/null
  set_source web "volumes-hdd/$image"
  refused_start web 'out of date' "volumes-hdd/$image" "virsh edit web" "$(basename -- "$(journals)")"
  # Somebody else may look into the image that was left.
  until_true 40 has_watchers "volumes-hdd/$image" 0
  start_guest other --disk "vda=volumes-hdd/$image" --paused
  guest stop other
  # What the sentence says helps.
  set_source web "volumes-ssd/$image"
  virsh start web --paused >/dev/null
  virsh destroy web >/dev/null
  set_source web "volumes-hdd/$image"
  mv "$(journals)" "$T"
  virsh start web --paused >/dev/null
}

test_there_and_back() {
  swapped
  until_true 40 remove_image "volumes-hdd/$image"
  virsh start web --paused >/dev/null
  virsh resume web >/dev/null
  swap web vda "volumes-hdd/$image" --create
  assert_exit 0
  virsh destroy web >/dev/null
  virsh start web --paused >/dev/null
  assert_equal "$(disk_image web vda)" "volumes-hdd/$image"
  virsh destroy web >/dev/null
  set_source web "volumes-ssd/$image"
  refused_start web 'out of date' "volumes-ssd/$image"
}

test_held_job() {
  swapped
  write_journal '.phase = "held_unknown" | .guest_on = "unknown"'
  refused_start web 'held_unknown' "poolshift recover $(basename -- "$(journals)" .journal)"
  # Held on the target, the guest is fine there and nowhere else.
  write_journal '.phase = "held_on_target" | .guest_on = "target"'
  virsh start web --paused >/dev/null
  virsh destroy web >/dev/null
  set_source web "volumes-hdd/$image"
  refused_start web 'held_on_target'
}

# Whatever is wrong with the hook's files, a domain starts, and one that runs lives through a restart of libvirtd.
test_damage() {
  at_end forget_all
  mkdir -p "$S/jobs"
  head -c 10000 /dev/urandom >"$S/jobs/000000000001.journal"
  : >"$S/jobs/000000000002.journal"
  mkfifo "$S/jobs/000000000003.journal"
  ln -s /etc/shadow "$S/jobs/000000000004.journal"
  echo '{' | policy broken
  head -c 1000000 /dev/zero | policy large
  at_end drop_image "volumes-hdd/$image"
  start_guest web --disk "vda=volumes-hdd/$image,size=64M" --paused
  assert_equal "$(state_of_domain web)" paused
}

test_reconnect() {
  at_end forget_all
  at_end drop_image "volumes-hdd/$image"
  at_end drop_image "volumes-ssd/$image"
  start_guest web --disk "vda=volumes-hdd/$image,size=64M,discard=unmap" --workload 'vda=mode=random,rate=50,span=32M'
  swap web vda "volumes-ssd/$image" --create
  assert_exit 0
  write_journal '.phase = "held_unknown" | .guest_on = "unknown"'
  echo '{' | policy broken
  local pid
  pid=$(guest pid web)
  libvirtd restart
  assert_equal "$(guest pid web)" "$pid" "process of the guest"
  assert_equal "$(state_of_domain web)" running
  wait_for_writes web vda 20
  libvirtd kill
  libvirtd start
  assert_equal "$(guest pid web)" "$pid" "process of the guest"
  wait_for_writes web vda 20
}

test_metadata() {
  at_end forget_all
  at_end drop_image "volumes-hdd/$image"
  start_guest web --disk "vda=volumes-hdd/$image,size=64M" --paused --metadata \
    "<ps:swap xmlns:ps='https://poolshift.dev/xmlns/1' disk='vda' pool='volumes-ssd' engine='mirror' bandwidth_bytes_per_s='1000000'/>"
  assert_queued '.schema == 1 and .origin == "metadata" and .domain == {"uuid": $uuid, "name": "web"} and .disk == "vda" and
    .source == {"pool": "volumes-hdd", "namespace": "", "image": $image} and
    .swap == {"target": ("volumes-ssd/" + $image), "create": true, "engine": "mirror", "bandwidth_bytes_per_s": 1000000}' \
    --arg uuid "$(virsh domuuid web)" --arg image "$image"
  # Asked for once, however often it starts.
  virsh destroy web >/dev/null
  virsh start web --paused >/dev/null
  assert_equal "$(queued)" 1 "requests in the queue"
}

test_policy() {
  at_end forget_all
  echo '{"schema": 1, "rules": [' | policy 10-broken
  policy 20-ssd <<END
{"schema": 1, "rules": [{"name": "ssd", "match": {"pool": "volumes-hdd", "image": "web-*"}, "swap": {"pool": "volumes-ssd"},
  "window": "22:00-06:00", "at_most": 2}]}
END
  at_end drop_image "volumes-hdd/$image"
  start_guest web --disk "vda=volumes-hdd/$image,size=64M" --paused
  assert_queued '.origin == "policy" and .policy == "ssd" and .window == "22:00-06:00" and .at_most == 2 and
    .swap == {"target": ("volumes-ssd/" + $image), "create": true}' --arg image "$image"
  rm "$S"/spool/queue/*
  # Those that it does not name, and those of OpenStack.
  at_end drop_image "volumes-hdd/other-$$"
  start_guest other --disk "vda=volumes-hdd/other-$$,size=64M" --paused
  at_end drop_image "volumes-hdd/web-nova-$$"
  start_guest nova --disk "vda=volumes-hdd/web-nova-$$,size=64M" --paused --metadata \
    "<nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'><nova:name>n</nova:name></nova:instance>"
  assert_equal "$(queued)" 0 "requests in the queue"
}

test_policy_for_stopped() {
  at_end forget_all
  policy ssd <<END
{"schema": 1, "rules": [{"name": "off", "match": {"pool": "volumes-hdd", "image": "web-*"}, "swap": {"pool": "volumes-ssd"},
  "when": "stopped"}]}
END
  at_end drop_image "volumes-hdd/$image"
  start_guest web --disk "vda=volumes-hdd/$image,size=64M" --paused
  assert_equal "$(queued)" 0 "requests in the queue"
  virsh destroy web >/dev/null
  assert_queued '.policy == "off" and .disk == "vda"'
}

# What libvirt gives the hook for a migration that comes in is the domain's XML; what the hook prints libvirt takes for it.
test_incoming_migration() {
  swapped
  set_source web "volumes-hdd/$image"
  virsh dumpxml --inactive --migratable --security-info web >"$T/incoming.xml"
  local answer=0
  POOLSHIFT_POLICY_DIR=$kPolicies "$kHook" web migrate begin - <"$T/incoming.xml" >"$T/out.xml" 2>"$T/err.txt" || answer=$?
  assert_equal "$answer" 1 "exit code of the hook"
  [[ ! -s $T/out.xml ]] || fail "it printed XML"
  grep -q 'out of date' "$T/err.txt" || fail "it says: $(<"$T/err.txt")"
  echo '{"schema": 1, "journals_are_shared": true}' | policy shared
  POOLSHIFT_POLICY_DIR=$kPolicies "$kHook" web migrate begin - <"$T/incoming.xml" >"$T/out.xml"
  virsh define --validate "$T/out.xml" >/dev/null
  assert_equal "$(disk_image web vda --inactive)" "volumes-ssd/$image"
  virsh start web --paused >/dev/null
  # Nothing but the image is another one.
  sed "s#volumes-hdd/$image#volumes-ssd/$image#" "$T/incoming.xml" | virsh define /dev/stdin >/dev/null
  virsh dumpxml --inactive web >"$T/expected.xml"
  virsh define "$T/out.xml" >/dev/null
  virsh dumpxml --inactive web | diff "$T/expected.xml" - || fail "more than the image was changed"
}

# --- from the trigger to the finished swap -----------------------------------------------------------------------------

# As poolshift-worker.path does where systemd runs: a worker whenever a request waits.
start_path_unit() {
  (
    worker=''
    trap 'kill -KILL $worker 2>/dev/null; exit' TERM
    while :; do
      if (($(queued) > 0)); then
        "$kPoolshift" worker "${kAccess[@]}" >&2 </dev/null &
        worker=$!
        wait "$worker" || true
        worker=''
      fi
      sleep 0.2
    done
  ) &
  at_end end_path_unit $!
}
end_path_unit() {
  kill "$1"
  wait "$1" || true
}

is_done() {
  local files=("$S"/spool/done/*.json)
  ((${#files[@]} == 1))
}

test_metadata_and_nothing_else() {
  at_end forget_all
  at_end drop_image "volumes-hdd/$image"
  at_end drop_image "volumes-ssd/$image"
  start_path_unit
  start_guest web --disk "vda=volumes-hdd/$image,size=64M,discard=unmap" --workload vda=mode=random,rate=20,fill=8M --metadata \
    "<ps:swap xmlns:ps='https://poolshift.dev/xmlns/1' disk='vda' pool='volumes-ssd'/>"
  until_true 120 is_done
  assert_equal "$(disk_image web vda)" "volumes-ssd/$image"
  wait_for_writes web vda 20
  assert_data web vda "volumes-ssd/$image"
}

# Its QEMU was killed, so for half a minute the image looks as if it were open: the worker tries again.
test_policy_and_nothing_else_for_a_domain_that_stopped() {
  at_end forget_all
  at_end drop_image "volumes-hdd/$image"
  at_end drop_image "volumes-ssd/$image"
  policy off <<END
{"schema": 1, "rules": [{"name": "off", "match": {"pool": "volumes-hdd", "image": "web-*"}, "swap": {"pool": "volumes-ssd"},
  "when": "stopped"}]}
END
  start_guest web --disk "vda=volumes-hdd/$image,size=64M,discard=unmap" --workload vda=mode=random,rate=20,fill=8M
  wait_for_writes web vda 20
  start_path_unit
  virsh destroy web >/dev/null
  until_true 180 is_done
  assert_equal "$(disk_image web vda --inactive)" "volumes-ssd/$image"
  virsh start web >/dev/null
  wait_for_writes web vda 20
  assert_data web vda "volumes-ssd/$image"
}

run_tests setup
