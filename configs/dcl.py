"""DCL. `python -m ssl_jax.main --config=configs/dcl.py:cifar10 --workdir=runs/dcl`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("dcl", preset)
