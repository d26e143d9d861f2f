#!/bin/bash
# Whole swaps, by the other engine.
engine=handover
# shellcheck source=tests/integration/20-swap.sh
. "$(dirname -- "$0")/20-swap.sh"
