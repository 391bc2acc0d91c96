"""Contrastive loss of pairs.

`python -m ssl_jax.main --config=configs/contrastive_pair.py:cifar10 --workdir=runs/contrastive_pair`.
"""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("contrastive_pair", preset)
