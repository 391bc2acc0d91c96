"""CyCADA. `python -m ssl_jax.main --config=configs/cycada.py:mnist_to_usps --workdir=runs/cycada`."""

from ssl_jax import recipes


def get_config(preset="mnist_to_usps"):
    return recipes.get_config("cycada", preset)
