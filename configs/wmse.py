"""W-MSE. `python -m ssl_jax.main --config=configs/wmse.py:cifar10 --workdir=runs/wmse`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("wmse", preset)
