"""Deep CORAL. `python -m ssl_jax.main --config=configs/deep_coral.py:mnist_to_usps --workdir=runs/deep_coral`."""

from ssl_jax import recipes


def get_config(preset="mnist_to_usps"):
    return recipes.get_config("deep_coral", preset)
