"""SimSiam. `python -m ssl_jax.main --config=configs/simsiam.py:cifar10 --workdir=runs/simsiam`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("simsiam", preset)
