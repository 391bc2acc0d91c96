"""VICReg. `python -m ssl_jax.main --config=configs/vicreg.py:cifar10 --workdir=runs/vicreg`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("vicreg", preset)
