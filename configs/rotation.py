"""RotNet. `python -m ssl_jax.main --config=configs/rotation.py:cifar10 --workdir=runs/rotation`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("rotation", preset)
