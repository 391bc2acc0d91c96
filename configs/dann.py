"""DANN. `python -m ssl_jax.main --config=configs/dann.py:mnist_to_mnist_m --workdir=runs/dann`."""

from ssl_jax import recipes


def get_config(preset="mnist_to_mnist_m"):
    return recipes.get_config("dann", preset)
