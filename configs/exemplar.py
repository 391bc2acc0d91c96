"""Exemplar-CNN. `python -m ssl_jax.main --config=configs/exemplar.py:cifar10 --workdir=runs/exemplar`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("exemplar", preset)
