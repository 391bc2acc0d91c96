"""I-JEPA. `python -m ssl_jax.main --config=configs/ijepa.py:cifar10 --workdir=runs/ijepa`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("ijepa", preset)
