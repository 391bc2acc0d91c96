"""Colorization. `python -m ssl_jax.main --config=configs/colorization.py:cifar10 --workdir=runs/colorization`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("colorization", preset)
