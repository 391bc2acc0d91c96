"""NAT. `python -m ssl_jax.main --config=configs/nat.py:cifar10 --workdir=runs/nat`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("nat", preset)
