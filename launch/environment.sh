# shellcheck shell=bash
# Makes or reuses the virtual environment and installs the package into it. Sourced by local.sh and test.sh.
#   environment EXTRA      EXTRA: empty, or the extras to install, such as "test"
# Settings: VENV (default .venv), PYTHON (default: the first of python3 and python3.13 to 3.11 that will do), NEWEST=1 for
# the newest versions of all packages instead of those in constraints-PYTHON.txt, with which the tests passed.

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "No Python 3.11 to 3.13 was found (looked for ${PYTHON:-python3, python3.13, python3.12, python3.11})." \
    "Install one, for example: apt-get install python3 python3-venv" >&2
  return 2
}

make_venv() {
  local python=$1
  rm -rf "$VENV.new"
  if ! "$python" -m venv "$VENV.new" >/dev/null 2>&1; then
    # Debian and Ubuntu ship Python without the module that venv needs.
    local version package
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    package="python$version-venv"
    echo "Python's venv module is incomplete; installing $package." >&2
    local sudo=
    [ "$(id -u)" = 0 ] || sudo="sudo -n"
    if ! { $sudo apt-get update -qq && $sudo apt-get install -y -qq "$package"; } >/dev/null 2>&1 \
      || ! "$python" -m venv "$VENV.new" >/dev/null; then
      echo "Could not install it. Run this, then start again: sudo apt-get install $package" >&2
      return 2
    fi
  fi
  # A virtual environment knows its own path, so it is made anew under its real name once venv is known to work.
  rm -rf "$VENV.new" "$VENV"
  "$python" -m venv "$VENV"
}

environment() {
  local extra=$1 python
  VENV=${VENV:-.venv}
  if [ -e "$VENV" ] && ! [ -e "$VENV/pyvenv.cfg" ] && [ -n "$(ls -A "$VENV")" ]; then
    echo "VENV=$VENV exists and is no virtual environment: choose another folder." >&2
    return 2
  fi
  if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python) || return
    make_venv "$python" || return
  fi
  local version versions constraint=()
  version=$("$VENV/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  versions=launch/constraints-$version.txt
  if [ -z "${NEWEST:-}" ] && [ -e "$versions" ]; then constraint=(--constraint "$versions"); fi
  # Installing again takes seconds, but it asks the network; a stamp tells that nothing has changed.
  local stamp="$VENV/installed-${extra:-base}${NEWEST:+-newest}"
  if ! [ "$stamp" -nt setup.py ] || [ "$versions" -nt "$stamp" ]; then
    echo "Installing ssl_jax${extra:+[$extra]} into $VENV (a few minutes the first time)."
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check ${constraint[@]+"${constraint[@]}"} \
      --editable ".${extra:+[$extra]}" || return
    touch "$stamp"
  fi
}
