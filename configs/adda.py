"""ADDA. `python -m ssl_jax.main --config=configs/adda.py:mnist_to_usps --workdir=runs/adda`."""

from ssl_jax import recipes


def get_config(preset="mnist_to_usps"):
    return recipes.get_config("adda", preset)
