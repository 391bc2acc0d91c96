#!/usr/bin/env bash
# Renews the versions that launch/*.sh install: makes a fresh environment with the newest versions, runs the test suite in
# it, and writes launch/constraints-PYTHON.txt if it passes.
#   bash launch/constraints.sh [PYTEST ARGUMENT ...]
# Settings: PYTHON, as in environment.sh; FROM, an environment that has passed already, to take its versions untested.
set -euo pipefail
cd "$(dirname "$0")/.."
from=${FROM:-}
if [ -z "$from" ]; then
  from=$(mktemp -d)/venv
  NEWEST=1 VENV=$from bash launch/test.sh "$@"
fi
version=$("$from/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
target=launch/constraints-$version.txt
{
  echo "# Versions with which the tests passed on Python $version. Written by launch/constraints.sh."
  # Neither this package nor what was installed from a path; pip is the environment's own.
  "$from/bin/python" -m pip freeze --all --disable-pip-version-check | grep -E '^[A-Za-z0-9._-]+==' |
    grep -vE '^(ssl_jax|pip)=='
} >"$target"
echo "$target has $(grep -c == "$target") packages."
