"""MAE. `python -m ssl_jax.main --config=configs/mae.py:cifar10 --workdir=runs/mae`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("mae", preset)
