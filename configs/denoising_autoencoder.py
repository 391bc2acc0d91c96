"""Denoising autoencoder; `--config=configs/denoising_autoencoder.py:cifar10` as for the others."""

from ml_collections import ConfigDict

from configs import autoencoder


def get_config(preset: str = "cifar10") -> ConfigDict:
    """Returns the config: the autoencoder's of that preset, with the noise of the method's class."""
    return autoencoder.get_config(preset, "denoising_autoencoder")
