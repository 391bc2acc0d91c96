"""Domain generalisation. `python -m ssl_jax.main --config=configs/generalisation.py:without_usps --workdir=runs/a`."""

from ssl_jax import recipes


def get_config(preset="without_usps"):
    return recipes.get_config("generalisation", preset)
