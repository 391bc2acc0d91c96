"""Mean teacher. `python -m ssl_jax.main --config=configs/mean_teacher.py:cifar10 --workdir=runs/mean_teacher`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("mean_teacher", preset)
