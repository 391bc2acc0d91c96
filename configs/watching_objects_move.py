"""Watching objects move. `python -m ssl_jax.main --config=configs/watching_objects_move.py:davis --workdir=runs/a`."""

from ssl_jax import recipes


def get_config(preset="davis"):
    return recipes.get_config("watching_objects_move", preset)
