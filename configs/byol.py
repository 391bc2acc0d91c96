"""BYOL. `python -m ssl_jax.main --config=configs/byol.py:cifar10 --workdir=runs/byol`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("byol", preset)
