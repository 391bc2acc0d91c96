"""BiGAN. `python -m ssl_jax.main --config=configs/bigan.py:cifar10 --workdir=runs/bigan`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("bigan", preset)
