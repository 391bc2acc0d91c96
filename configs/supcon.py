"""Supervised contrastive learning.

`python -m ssl_jax.main --config=configs/supcon.py:cifar10 --workdir=runs/supcon`.
"""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("supcon", preset)
