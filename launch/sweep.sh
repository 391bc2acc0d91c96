#!/usr/bin/env bash
# Trains and evaluates several methods with several seeds, one run at a time, and draws all of them as one report.
#   bash launch/sweep.sh PRESET "METHOD ..." "SEED ..." [--config.FIELD=VALUE ...]
#   bash launch/sweep.sh cifar10_small "simclr byol vicreg" "0 1 2" --config.epochs=10
# It may be stopped and started again: what is finished is not trained twice. As a Slurm array each task trains one run:
#   sbatch --array=0-8 launch/sweep.sh ...      and once more without --array for the report
# Settings: VENV (default .venv), RUNS (default runs/sweep), EVALS (default knn,linear,few_label).
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
if [ $# -lt 3 ]; then
  sed -n '2,7s/^# \{0,1\}//p' launch/sweep.sh >&2
  exit 2
fi
preset=$1 methods=$2 seeds=$3
shift 3
python=${VENV:-.venv}/bin/python
runs=${RUNS:-runs/sweep}

all=()
number=0
for method in $methods; do
  for seed in $seeds; do
    workdir=$runs/$method-$seed
    all+=("$workdir")
    if [ "${SLURM_ARRAY_TASK_ID:-$number}" = "$number" ]; then
      "$python" -m ssl_jax train "$method:$preset" "$workdir" --config.seed="$seed" "$@"
      "$python" -m ssl_jax evaluate "$workdir" --evals="${EVALS:-knn,linear,few_label}"
    fi
    number=$((number + 1))
  done
done
[ -n "${SLURM_ARRAY_TASK_ID:-}" ] || exec "$python" -m ssl_jax report "${all[@]}"
