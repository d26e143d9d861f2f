#!/bin/bash
# Images that are not plain, by the other engine.
engine=handover
# shellcheck source=tests/integration/30-images.sh
. "$(dirname -- "$0")/30-images.sh"
