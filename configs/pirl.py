"""PIRL. `python -m ssl_jax.main --config=configs/pirl.py:cifar10 --workdir=runs/pirl`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("pirl", preset)
