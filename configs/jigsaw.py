"""Jigsaw puzzles. `python -m ssl_jax.main --config=configs/jigsaw.py:cifar10 --workdir=runs/jigsaw`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("jigsaw", preset)
