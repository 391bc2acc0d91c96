"""Triplet loss. `python -m ssl_jax.main --config=configs/triplet.py:cifar10 --workdir=runs/triplet`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("triplet", preset)
