"""Pseudo-labels. `python -m ssl_jax.main --config=configs/pseudo_label.py:cifar10 --workdir=runs/pseudo_label`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("pseudo_label", preset)
