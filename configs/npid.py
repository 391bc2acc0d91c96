"""NPID. `python -m ssl_jax.main --config=configs/npid.py:cifar10 --workdir=runs/npid`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("npid", preset)
