"""Learning to count. `python -m ssl_jax.main --config=configs/counting.py:cifar10 --workdir=runs/counting`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("counting", preset)
