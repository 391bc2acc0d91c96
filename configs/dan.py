"""DAN. `python -m ssl_jax.main --config=configs/dan.py:mnist_to_usps --workdir=runs/dan`."""

from ssl_jax import recipes


def get_config(preset="mnist_to_usps"):
    return recipes.get_config("dan", preset)
