"""LeJEPA. `python -m ssl_jax.main --config=configs/lejepa.py:cifar10 --workdir=runs/lejepa`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("lejepa", preset)
