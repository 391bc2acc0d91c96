"""Shuffle and learn. `python -m ssl_jax.main --config=configs/shuffle_and_learn.py:davis --workdir=runs/a`."""

from ssl_jax import recipes


def get_config(preset="davis"):
    return recipes.get_config("shuffle_and_learn", preset)
