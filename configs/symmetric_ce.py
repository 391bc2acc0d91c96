"""Symmetric cross-entropy. `python -m ssl_jax.main --config=configs/symmetric_ce.py:cifar10 --workdir=runs/noisy`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("symmetric_ce", preset)
