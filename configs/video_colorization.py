"""Video colorization. `python -m ssl_jax.main --config=configs/video_colorization.py:davis --workdir=runs/a`."""

from ssl_jax import recipes


def get_config(preset="davis"):
    return recipes.get_config("video_colorization", preset)
