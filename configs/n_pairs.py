"""N-pair loss. `python -m ssl_jax.main --config=configs/n_pairs.py:cifar10 --workdir=runs/n_pairs`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("n_pairs", preset)
