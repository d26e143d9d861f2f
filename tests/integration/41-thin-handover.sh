#!/bin/bash
# Thin stays thin, by the other engine.
engine=handover
# shellcheck source=tests/integration/40-thin.sh
. "$(dirname -- "$0")/40-thin.sh"
