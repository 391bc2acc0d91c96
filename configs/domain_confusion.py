"""Domain confusion. `python -m ssl_jax.main --config=configs/domain_confusion.py:mnist_to_usps --workdir=runs/a`."""

from ssl_jax import recipes


def get_config(preset="mnist_to_usps"):
    return recipes.get_config("domain_confusion", preset)
