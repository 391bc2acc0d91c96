"""SwAV. `python -m ssl_jax.main --config=configs/swav.py:cifar10 --workdir=runs/swav`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("swav", preset)
