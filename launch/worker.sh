#!/usr/bin/env bash
# Runs on a machine of a TPU slice, where tpu_vm.sh has put it: starts pretraining so that it outlives the connection.
#   worker.sh setup            makes the environment
#   worker.sh start ARGUMENT... starts ssl_jax.main with these arguments; does nothing where it is running
#   worker.sh status           prints "running", "stopped" (by hand), "exited STATUS", "ready" or "bare"
#   worker.sh stop             asks it to write a checkpoint and end, and waits until it has
# The output goes to run.log. Settings: VENV (default .venv).
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}

running() {
  [ -e run.pid ] && kill -0 "$(cat run.pid)" 2>/dev/null
}

setup() {
  . launch/environment.sh
  # TPU machines come with Python 3.10; uv fetches a newer one without touching it.
  if ! find_python >/dev/null 2>&1; then
    python3 -m pip install --quiet --user uv
    PYTHON=$(python3 -m uv python find 3.13 2>/dev/null \
      || { python3 -m uv python install --quiet 3.13 && python3 -m uv python find 3.13; })
    export PYTHON
  fi
  environment tpu,gcs,tfds
}

start() {
  if running; then
    return
  fi
  rm -f run.status run.stopped
  # shellcheck disable=SC2016 # for the inner shell
  setsid nohup bash -c '
    status=0
    "$@" & echo $! >run.pid.new
    mv run.pid.new run.pid
    wait $! || status=$?
    echo $status >run.status' worker "$VENV/bin/python" -m ssl_jax.main "$@" >>run.log 2>&1 </dev/null &
  until [ -e run.pid ] && { running || [ -e run.status ]; }; do sleep 0.1; done
}

status() {
  if running; then
    echo running
  elif [ -e run.stopped ]; then
    echo stopped
  elif [ -e run.status ]; then
    echo "exited $(cat run.status)"
  elif [ -x "$VENV/bin/python" ]; then
    echo ready
  else
    echo bare
  fi
}

stop() {
  if running; then
    touch run.stopped
    kill -TERM "$(cat run.pid)"
    while running; do sleep 1; done
  fi
}

case ${1:-} in
  setup | start | status | stop) "$@" ;;
  *)
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
