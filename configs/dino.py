"""DINO. `python -m ssl_jax.main --config=configs/dino.py:cifar10 --workdir=runs/dino`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("dino", preset)
