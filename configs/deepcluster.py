"""DeepCluster-v2. `python -m ssl_jax.main --config=configs/deepcluster.py:cifar10 --workdir=runs/deepcluster`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("deepcluster", preset)
