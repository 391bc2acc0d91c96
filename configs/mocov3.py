"""MoCo v3. `python -m ssl_jax.main --config=configs/mocov3.py:cifar10 --workdir=runs/mocov3`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("mocov3", preset)
