"""MSN. `python -m ssl_jax.main --config=configs/msn.py:cifar10 --workdir=runs/msn`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("msn", preset)
