"""Autoencoder. `python -m ssl_jax.main --config=configs/autoencoder.py:cifar10 --workdir=runs/autoencoder`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("autoencoder", preset)
