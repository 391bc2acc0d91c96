"""Context encoder. `python -m ssl_jax.main --config=configs/context_encoder.py:cifar10 --workdir=runs/context`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("context_encoder", preset)
