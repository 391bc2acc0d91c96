"""JULE. `python -m ssl_jax.main --config=configs/jule.py:usps --workdir=runs/jule`."""

from ssl_jax import recipes


def get_config(preset="usps"):
    return recipes.get_config("jule", preset)
