"""MAML. `python -m ssl_jax.main --config=configs/maml.py:omniglot --workdir=runs/maml`."""

from ssl_jax import recipes


def get_config(preset="omniglot"):
    return recipes.get_config("maml", preset)
