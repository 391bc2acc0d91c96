"""Self-training. `python -m ssl_jax.main --config=configs/self_training.py:mnist_to_usps --workdir=runs/a`."""

from ssl_jax import recipes


def get_config(preset="mnist_to_usps"):
    return recipes.get_config("self_training", preset)
