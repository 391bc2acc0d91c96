"""iBOT. `python -m ssl_jax.main --config=configs/ibot.py:cifar10 --workdir=runs/ibot`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("ibot", preset)
