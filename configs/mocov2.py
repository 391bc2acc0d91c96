"""MoCo v2. `python -m ssl_jax.main --config=configs/mocov2.py:cifar10 --workdir=runs/mocov2`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("mocov2", preset)
