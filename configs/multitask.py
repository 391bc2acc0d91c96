"""Multi-task learning. `python -m ssl_jax.main --config=configs/multitask.py:cifar10+TASK+TASK --workdir=runs/a`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("multitask", preset)
