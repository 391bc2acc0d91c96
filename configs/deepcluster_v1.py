"""DeepCluster. `python -m ssl_jax.main --config=configs/deepcluster_v1.py:cifar10 --workdir=runs/deepcluster_v1`."""

from ssl_jax import recipes


def get_config(preset="cifar10"):
    return recipes.get_config("deepcluster_v1", preset)
