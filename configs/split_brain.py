"""Split-brain autoencoder. `python -m ssl_jax.main --config=configs/split_brain.py:cifar10 --workdir=runs/split`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("split_brain", preset)
