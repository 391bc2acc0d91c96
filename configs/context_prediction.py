"""Context prediction. `python -m ssl_jax.main --config=configs/context_prediction.py:cifar10 --workdir=runs/a`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("context_prediction", preset)
