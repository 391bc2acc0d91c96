"""SimDINO. `python -m ssl_jax.main --config=configs/simdino.py:cifar10 --workdir=runs/simdino`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("simdino", preset)
