"""Denoising autoencoder; `--config=configs/denoising_autoencoder.py:cifar10` as for the others."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("denoising_autoencoder", preset)
