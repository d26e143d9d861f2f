#!/bin/bash
# Who checks the data of all other tests must itself refuse data that is wrong.
# shellcheck source=tests/integration/functions.sh
. "$(dirname -- "$0")/functions.sh"

test_checker_refuses_wrong_data() { "$tests/guest/selftest" "$STACK_DIR"; }

run_tests
