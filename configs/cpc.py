"""CPC. `python -m ssl_jax.main --config=configs/cpc.py:cifar10 --workdir=runs/cpc`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("cpc", preset)
