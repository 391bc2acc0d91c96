"""DINOv2. `python -m ssl_jax.main --config=configs/dinov2.py:cifar10 --workdir=runs/dinov2`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("dinov2", preset)
