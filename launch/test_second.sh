#!/usr/bin/env bash
# Checks style and types, and trains every method for a few steps, on a second Python. JAX 0.11 and later need Python
# 3.12, so that Python 3.11 has an older JAX, and one Python alone leaves a supported JAX untested.
#   bash launch/test_second.sh [PYTEST ARGUMENT ...]
# Settings: VENV and PYTHON, as in environment.sh, for the first Python; SECOND_VENV (default .venv-second) and
# SECOND_PYTHON (default: beside Python 3.11, python3.13 or python3.12; beside a later one, python3.11; where these do
# not run, pyenv's) for the second. Where there is no second Python, it says so and succeeds.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh

version_of() { # of a Python that runs: pyenv puts commands on PATH that do not
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

find_second() {
  local wanted candidate versions
  versions=$(pyenv root 2>/dev/null || true)/versions
  for wanted in "$@"; do
    for candidate in "python$wanted" "$versions/$wanted".*/bin/python; do
      if [ "$(version_of "$candidate")" = "$wanted" ]; then
        echo "$candidate"
        return
      fi
    done
  done
  return 1
}

if "${VENV:-.venv}/bin/python" -m pip --version >/dev/null 2>&1; then
  first=$(version_of "${VENV:-.venv}/bin/python")
else
  first=$(version_of "$(find_python)")
fi
if [ "$first" = 3.11 ]; then wanted=(3.13 3.12); else wanted=(3.11); fi
if [ -n "${SECOND_PYTHON:-}" ]; then
  second=$SECOND_PYTHON
  if ! version_of "$second" >/dev/null; then
    echo "SECOND_PYTHON=$second does not run: name a Python of 3.11 to 3.13, or none." >&2
    exit 2
  fi
elif ! second=$(find_second "${wanted[@]}"); then
  echo "No second Python was found beside $first (looked for ${wanted[*]}): only $first is tested."
  exit
fi
echo "Python $(version_of "$second") beside $first: style, types and a few steps of every method."
VENV=${SECOND_VENV:-.venv-second} PYTHON=$second exec bash launch/test.sh \
  tests/test_style.py tests/test_gelu.py \
  tests/test_methods.py::test_step_is_compiled_once_and_stays_on_the_device "$@"
