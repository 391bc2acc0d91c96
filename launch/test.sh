#!/usr/bin/env bash
# Sets up an environment with the test tools and runs the test suite.
#   bash launch/test.sh [PYTEST ARGUMENT ...]     for example: bash launch/test.sh -m fast
# Two processes share the work; -n 0 runs all in one, -n 8 suits a larger machine.
# Settings: VENV, PYTHON and NEWEST, as in environment.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
environment test
exec "$VENV/bin/python" -m pytest -n 2 --dist loadscope "$@"
