"""Tracking triplets. `python -m ssl_jax.main --config=configs/tracking_triplets.py:davis_tracks --workdir=runs/a`."""

from ssl_jax import recipes


def get_config(preset="davis_tracks"):
    return recipes.get_config("tracking_triplets", preset)
