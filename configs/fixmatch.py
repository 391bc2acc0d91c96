"""FixMatch. `python -m ssl_jax.main --config=configs/fixmatch.py:cifar10 --workdir=runs/fixmatch`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("fixmatch", preset)
