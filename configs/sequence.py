"""Continual learning. `python -m ssl_jax.main --config=configs/sequence.py:cifar10_small --workdir=runs/sequence`."""

from ssl_jax import recipes


def get_config(preset="cifar10_small"):
    return recipes.get_config("sequence", preset)
