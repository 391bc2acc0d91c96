"""DINOv3. `python -m ssl_jax.main --config=configs/dinov3.py:cifar10 --workdir=runs/dinov3`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("dinov3", preset)
