"""Barlow Twins. `python -m ssl_jax.main --config=configs/barlow_twins.py:cifar10 --workdir=runs/barlow_twins`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("barlow_twins", preset)
