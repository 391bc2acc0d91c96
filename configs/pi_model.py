"""Pi-model. `python -m ssl_jax.main --config=configs/pi_model.py:cifar10 --workdir=runs/pi_model`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("pi_model", preset)
