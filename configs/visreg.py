"""VISReg. `python -m ssl_jax.main --config=configs/visreg.py:cifar10 --workdir=runs/visreg`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("visreg", preset)
