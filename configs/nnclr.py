"""NNCLR. `python -m ssl_jax.main --config=configs/nnclr.py:cifar10 --workdir=runs/nnclr`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("nnclr", preset)
