"""SimCLR. `python -m ssl_jax.main --config=configs/simclr.py:cifar10 --workdir=runs/simclr`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("simclr", preset)
