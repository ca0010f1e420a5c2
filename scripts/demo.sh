#!/usr/bin/env bash
# Sets everything up and runs the main job on the bundled sample; needs neither a screen nor Qt.
#
# Usage: scripts/demo.sh [OUT]      OUT: the folder for the results (default: ./histomix-demo)

set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

setup ""
say "Running the demo"
exec "$venv/bin/histomix" demo --out "${1:-histomix-demo}"
