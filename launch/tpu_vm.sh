#!/usr/bin/env bash
# Pretrains on a Cloud TPU slice, all of its machines together, and restarts what was preempted.
#   bash launch/tpu_vm.sh ACTION [--name=ssl-jax] [--zone=ZONE] [--project=PROJECT] [--accelerator=v5litepod-16]
#                         [--runtime=v2-alpha-tpuv5-lite] [--spot] [--dry-run] [ARGUMENT...]
#   create   asks for the slice (a queued resource) and waits until it is there
#   setup    copies this checkout to every machine and installs it
#   run      creates, sets up, starts ssl_jax.main with the ARGUMENTs on every machine, and watches: a preempted slice
#            is made anew and the run goes on from its checkpoint, until it is done; needs --workdir=gs://...
#   logs     shows what the first machine prints
#   status   of the slice and of the run on each machine
#   stop     lets the run write a checkpoint and end; the slice stays, and costs money
#   delete   gives the slice back
# --dry-run prints the commands and runs none. Exit status of run: that of ssl_jax.main, or 1 after RESTARTS (default
# 100) restarts. Further settings: POLL, seconds between looks at the slice (default 60).
set -euo pipefail
cd "$(dirname "$0")/.."

name=ssl-jax zone='' project='' accelerator=v5litepod-16 runtime=v2-alpha-tpuv5-lite spot='' dry='' workdir=''
POLL=${POLL:-60}
RESTARTS=${RESTARTS:-100}
action=${1:-}
[ $# = 0 ] || shift
arguments=()
for argument in "$@"; do
  case $argument in
    --name=*) name=${argument#*=} ;;
    --zone=*) zone=${argument#*=} ;;
    --project=*) project=${argument#*=} ;;
    --accelerator=*) accelerator=${argument#*=} ;;
    --runtime=*) runtime=${argument#*=} ;;
    --spot) spot=yes ;;
    --dry-run) dry=yes ;;
    *)
      arguments+=("$argument")
      case $argument in --workdir=*) workdir=${argument#*=} ;; esac
      ;;
  esac
done
archive=${TMPDIR:-/tmp}/ssl_jax-$name.tar.gz
where=(${zone:+"--zone=$zone"} ${project:+"--project=$project"})

mistake() {
  echo "$1" >&2
  exit 2
}

act() { # runs a command, or prints it in a dry run
  if [ "$dry" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

tpus() {
  act gcloud compute tpus "$@" ${where[@]+"${where[@]}"}
}

slice_state() { # nothing where there is no such slice
  tpus queued-resources list --filter="name~/$name\$" --format='value(state.state)'
}

everywhere() { # runs launch/worker.sh on all machines
  local command="bash ssl_jax/launch/worker.sh" word
  for word in "$@"; do command+=" $(printf %q "$word")"; done
  tpus tpu-vm ssh "$name" --worker=all --command="$command"
}

create() {
  tpus queued-resources create "$name" --node-id="$name" --accelerator-type="$accelerator" \
    --runtime-version="$runtime" ${spot:+--spot} && { [ "$dry" ] || wait_until_active; }
}

wait_until_active() {
  local state=
  while state=$(slice_state) && [ "$state" != ACTIVE ]; do
    case $state in
      FAILED | SUSPENDING | SUSPENDED | '')
        echo "The slice $name is ${state:-not there}: see 'gcloud compute tpus queued-resources describe'." >&2
        return 1
        ;;
    esac
    echo "The slice $name is $state."
    sleep "$POLL"
  done
}

# This checkout as it is now: what git tracks, and what is new where code lies.
pack() {
  local index tree
  index=$(mktemp)
  cp "$(git rev-parse --git-path index)" "$index"
  tree=$(export GIT_INDEX_FILE=$index && git add --update && git add ssl_jax configs launch && git write-tree)
  rm -f "$index"
  act git archive --prefix=ssl_jax/ --output="$archive" "$tree"
}

install() {
  tpus tpu-vm scp "$archive" "$name":ssl_jax.tar.gz --worker=all \
    && tpus tpu-vm ssh "$name" --worker=all --command="tar -xzf ssl_jax.tar.gz" \
    && everywhere setup
}

setup() {
  pack && install
}

delete() {
  tpus queued-resources delete "$name" --force --quiet
}

# The slice as it is needed: made anew where it was preempted.
ensure_slice() {
  local state
  state=$(slice_state)
  case $state in
    ACTIVE) ;;
    '') create ;;
    FAILED | SUSPENDING | SUSPENDED)
      echo "The slice $name is $state; making a new one."
      delete && create
      ;;
    *) wait_until_active ;;
  esac
}

# Waits while any machine runs; prints how the run ended: "exited STATUS" with the smallest that is not 0 (a mistake
# counts more than "resumable"), "stopped", or "lost" where the slice is gone or cannot be reached three times.
outcome() {
  local told unreached=0
  while true; do
    if told=$(everywhere status 2>/dev/null); then
      unreached=0
    else
      told=running
      unreached=$((unreached + 1))
    fi
    if [ "$(slice_state)" != ACTIVE ] || [ $unreached = 3 ]; then
      echo lost
      return
    fi
    grep -qx running <<<"$told" || break
    sleep "$POLL"
  done
  if grep -qx stopped <<<"$told"; then
    echo stopped
  elif grep -qE '^exited [1-9]' <<<"$told"; then
    grep -E '^exited [1-9]' <<<"$told" | sort -k2 -n | head -n 1
  else
    grep -m 1 -x 'exited 0' <<<"$told" || echo lost
  fi
}

stays() {
  echo "The slice stays, and costs money, until 'bash launch/tpu_vm.sh delete --name=$name'."
}

# A misspelt flag would be met by the program only when the slice is paid for.
check_flags() {
  local argument
  for argument in "$@"; do
    case $argument in
      --config | --config=* | --config.* | --noconfig.* | --workdir=* | --flagfile=* | [!-]*) ;;
      *) mistake "'$argument' is no flag of $0 and none of ssl_jax.main that a slice takes: see the first lines of $0." ;;
    esac
  done
}

run() {
  check_flags ${arguments[@]+"${arguments[@]}"}
  [[ $workdir == gs://* ]] || mistake "run needs --workdir=gs://BUCKET/FOLDER: the disks of a slice go with it."
  if [ "$dry" ]; then
    create
    setup
    everywhere start "${arguments[@]}"
    everywhere status
    return
  fi
  local restart ended
  pack # once: what is edited meanwhile belongs to another run
  for ((restart = 0; restart <= RESTARTS; restart++)); do
    # Whatever of this fails, the slice may have gone in the middle of it.
    if ! { ensure_slice && install && everywhere start "${arguments[@]}"; }; then
      sleep "$POLL"
      continue
    fi
    ended=$(outcome)
    case $ended in
      'exited 0')
        echo "The run is done. $(stays)"
        return
        ;;
      stopped)
        stays >&2
        return 75
        ;;
      'exited '[123])
        tpus tpu-vm ssh "$name" --worker=0 --command="tail -n 20 ssl_jax/run.log" >&2
        stays >&2
        return "${ended#exited }"
        ;;
    esac
    echo "The run on $name is $ended; starting it again (${restart} restarts so far)."
    sleep "$POLL"
  done
  echo "Gave up after $RESTARTS restarts. $(stays)" >&2
  return 1
}

logs() {
  tpus tpu-vm ssh "$name" --worker=0 --command="tail -n 50 -F ssl_jax/run.log"
}

status() {
  tpus queued-resources describe "$name" --format='value(state.state)'
  everywhere status
}

stop() {
  everywhere stop
}

case $action in
  create | setup | run | logs | status | stop | delete)
    [ "$action" = run ] || [ ${#arguments[@]} = 0 ] || mistake "'${arguments[0]}' means nothing to $action."
    [ "$dry" ] || command -v gcloud >/dev/null || mistake "gcloud was not found: install the Google Cloud CLI."
    "$action"
    ;;
  *)
    sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
