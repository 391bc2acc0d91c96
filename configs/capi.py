"""CAPI. `python -m ssl_jax.main --config=configs/capi.py:cifar10 --workdir=runs/capi`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("capi", preset)
