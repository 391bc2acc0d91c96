#!/usr/bin/env bash
# Starts N processes of one run on this machine, which find each other by themselves.
#   bash launch/multiprocess.sh N COMMAND...     for example:
#   bash launch/multiprocess.sh 2 python -m ssl_jax.main --config=configs/simclr.py:digits --workdir=runs/two
# GPUs are shared out in equal parts. Without any, JAX_NUM_CPU_DEVICES=4 gives each process four simulated devices.
# Ctrl-C and SIGTERM go to all processes. Exit status: the smallest that is not 0, so that a mistake (2, 3) counts
# more than "the same command resumes" (75), and that more than a kill (128 and above).
# Settings: PORT of the first process (default: one that is free).
set -euo pipefail

usage() {
  sed -n '2,4s/^# //p' "$0" >&2
  exit 2
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])'
}

[ $# -ge 2 ] && [[ $1 =~ ^[1-9][0-9]*$ ]] || usage
processes=$1
shift

gpus=0
if [ "${JAX_PLATFORMS:-}" != cpu ] && command -v nvidia-smi >/dev/null; then
  gpus=$(nvidia-smi -L | wc -l)
fi
if [ "$gpus" -gt 0 ] && [ $((gpus % processes)) != 0 ]; then
  echo "$gpus GPUs cannot be shared out among $processes processes: choose a number that divides them." >&2
  exit 2
fi

JAX_COORDINATOR_ADDRESS=localhost:${PORT:-$(free_port)}
export JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES=$processes
# Each decodes images with its share of the cores (joblib's setting).
cores=$(getconf _NPROCESSORS_ONLN)
export LOKY_MAX_CPU_COUNT=${LOKY_MAX_CPU_COUNT:-$(((cores + processes - 1) / processes))}
pids=()
for ((number = 0; number < processes; number++)); do
  share=$((gpus / processes))
  if [ $share -gt 0 ]; then
    JAX_LOCAL_DEVICE_IDS=$(seq -s, $((number * share)) $((number * share + share - 1)))
    export JAX_LOCAL_DEVICE_IDS
  fi
  JAX_PROCESS_ID=$number "$@" &
  pids+=($!)
done

# A process in the background ignores Ctrl-C, so both signals are handed on as SIGTERM.
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' INT TERM
worst=0
for pid in "${pids[@]}"; do
  status=0
  wait "$pid" || status=$?
  # A signal ends the wait, not the process.
  while kill -0 "$pid" 2>/dev/null; do
    status=0
    wait "$pid" || status=$?
  done
  if [ $status != 0 ] && { [ $worst = 0 ] || [ $status -lt $worst ]; }; then
    worst=$status
  fi
done
exit $worst
