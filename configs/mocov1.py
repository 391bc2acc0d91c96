"""MoCo v1. `python -m ssl_jax.main --config=configs/mocov1.py:cifar10 --workdir=runs/mocov1`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("mocov1", preset)
