"""S4L. `python -m ssl_jax.main --config=configs/s4l.py:cifar10 --workdir=runs/s4l`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("s4l", preset)
