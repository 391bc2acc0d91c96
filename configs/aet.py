"""AET. `python -m ssl_jax.main --config=configs/aet.py:cifar10 --workdir=runs/aet`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("aet", preset)
