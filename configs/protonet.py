"""Prototypical networks. `python -m ssl_jax.main --config=configs/protonet.py:omniglot --workdir=runs/protonet`."""

from ssl_jax import recipes


def get_config(preset="omniglot"):
    return recipes.get_config("protonet", preset)
