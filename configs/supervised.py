"""Supervised baseline. `python -m ssl_jax.main --config=configs/supervised.py:cifar10 --workdir=runs/supervised`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("supervised", preset)
