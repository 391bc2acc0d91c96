#!/usr/bin/env bash
# Installs the package in a notebook's runtime, with JAX for the device that it has: TPU, GPU or CPU.
#   bash launch/colab.sh       in the checkout; PYTHON chooses another Python than `python`
set -euo pipefail
cd "$(dirname "$0")/.."
extra=
if [ -n "${TPU_ACCELERATOR_TYPE:-}${COLAB_TPU_ADDR:-}" ]; then
  extra="[tpu]"
elif [ -e "${GPU_DEVICE:-/dev/nvidia0}" ]; then
  extra="[gpu]"
fi
echo "Installing ssl_jax$extra."
"${PYTHON:-python}" -m pip install --quiet --disable-pip-version-check --editable ".$extra"
