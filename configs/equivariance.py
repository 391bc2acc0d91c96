"""Equivariance. `python -m ssl_jax.main --config=configs/equivariance.py:cifar10 --workdir=runs/equivariance`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("equivariance", preset)
