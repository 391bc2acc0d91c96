"""Egomotion. `python -m ssl_jax.main --config=configs/egomotion.py:cifar10 --workdir=runs/egomotion`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("egomotion", preset)
