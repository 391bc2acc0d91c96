#!/usr/bin/env bash
# Sets up an environment, pretrains a small backbone on scikit-learn's digits without labels and evaluates it.
#   bash launch/local.sh [--config.FIELD=VALUE ...]    further arguments go through to ssl_jax.main
# Settings: VENV, PYTHON and NEWEST, as in environment.sh; WORKDIR (default runs/quickstart).
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
environment ""

workdir=${WORKDIR:-runs/quickstart}
config=configs/simclr.py:digits
previous=
for argument in "$@"; do
  case $argument in
    --workdir=*) workdir=${argument#*=} ;;
    *) [ "$previous" != --workdir ] || workdir=$argument ;;
  esac
  previous=$argument
done
# Given last, an argument overrides the defaults before it.
"$VENV/bin/python" -m ssl_jax.main --config="$config" --workdir="$workdir" "$@"
# The quick ones of the evaluations; ssl_jax.evaluate alone runs all that train no backbone.
"$VENV/bin/python" -m ssl_jax.evaluate --workdir="$workdir" --evals=knn,linear,few_label
"$VENV/bin/python" -m ssl_jax.report --workdir="$workdir"
