"""SimDINOv2. `python -m ssl_jax.main --config=configs/simdinov2.py:cifar10 --workdir=runs/simdinov2`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("simdinov2", preset)
