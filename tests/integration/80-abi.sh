#!/bin/bash
# Whole swaps through the C ABI: from C with dlopen(), from Python with ctypes.
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/functions.sh"

web=$(name web)
images=("volumes-hdd/abi-$kFileTag" "volumes-ssd/abi-c-$kFileTag" "volumes-hdd/abi-python-$kFileTag")

boot() {
  new_image "${images[0]}" 128M
  at_end drop_image "${images[1]}"
  at_end drop_image "${images[2]}"
  start_guest "$web" --disk "vda=${images[0]},discard=unmap" --workload vda=mode=random,rate=50,span=32M,fill=32M \
    --wait-filled
}

options() {
  jq -cn --arg uri "$STACK_LIBVIRT_URI" --arg dir "$S" --arg overlays "$POOLSHIFT_OVERLAY_DIR" \
    --arg guardian "$POOLSHIFT_GUARDIAN" \
    '{schema: 1, connect: $uri, state_dir: $dir, overlay_dir: $overlays, guardian: $guardian}'
}
# request TARGET BANDWIDTH: a limit, so that there is something to follow.
request() {
  jq -cn --arg domain "$web" --arg target "$1" --argjson bandwidth "$2" --arg engine "$engine" \
    '{schema: 1, domain: $domain, disk: "vda", target: $target, create: true, engine: $engine,
      bandwidth_bytes_per_s: $bandwidth}'
}

# through COMMAND...: its last line is the report.
through() {
  status=0
  "$@" >"$T/out" || status=$?
  tail -n 1 "$T/out" >"$T/report.json"
}

test_swap_from_c() {
  local program=$POOLSHIFT_BUILD_DIR/tests/abi/abi_swap
  through "$program" "$kLibrary" "$(options)" "$(request "${images[1]}" $((16 * MiB)))" 0
  assert_done "${images[0]}" "${images[1]}"
  assert_on_target "$web" vda "${images[0]}" "${images[1]}"
  through "$program" "$kLibrary" "$(options)" "$(request "${images[1]}" 0)" 3
  assert_exit 0
  assert_report '.state == "refused"'
  assert_data "$web" vda "${images[1]}"
}

test_swap_from_python() {
  engine=handover
  local program=(/usr/bin/python3 "$tests/abi/abi_swap.py")
  through "${program[@]}" "$kLibrary" "$(options)" "$(request "${images[2]}" $((16 * MiB)))" 0
  assert_done "${images[1]}" "${images[2]}"
  assert_on_target "$web" vda "${images[1]}" "${images[2]}"
  through "${program[@]}" "$kLibrary" "$(options)" "$(request "${images[2]}" 0)" 3
  assert_exit 0
  wait_for_writes "$web" vda 20
  assert_data "$web" vda "${images[2]}"
}

run_tests boot
