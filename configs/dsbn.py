"""DSBN. `python -m ssl_jax.main --config=configs/dsbn.py:mnist_to_usps --workdir=runs/dsbn`."""

from ssl_jax import recipes


def get_config(preset="mnist_to_usps"):
    return recipes.get_config("dsbn", preset)
