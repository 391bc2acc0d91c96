"""Learning to count. `python -m ssl_jax.main --config=configs/counting.py:cifar10 --workdir=runs/counting`."""

import dataclasses

from ml_collections import ConfigDict

from configs import common
from ssl_jax.augment.view import View

PRESETS = common.LARGE_PRESETS
replace = dataclasses.replace


def get_config(preset: str = "cifar10") -> ConfigDict:
    """Returns the config; `preset` is one of `PRESETS`."""
    config = common.get_config("counting", preset, PRESETS)
    # What is cut off would be missing in the tiles as well; flips are not the authors'.
    small = View(size=32, crop="shift", pad=0, flip=0.5, order=("crop", "flip"), mean=(0.473,), std=(0.251,))
    adam = common.optimizer(name="adamw", learning_rate=1e-3, scaling="none", weight_decay=1e-4)
    if preset == "photo_tiles":
        common.update(config.method, view=small, hidden=(256,), out=64)
        config.optim.default = adam
    elif preset == "fashion_mnist":
        common.update(config.method, view=replace(small, size=28, mean=(0.286,), std=(0.353,)), hidden=(512,), out=256)
        config.optim.default = adam
    elif preset in ("cifar10", "cifar10_small"):
        # The authors have no recipe for CIFAR.
        common.update(config.method, view=small, hidden=(512,), out=256)
        config.optim.default = adam
        if preset == "cifar10":
            config.epochs, config.batch_size = 200, 256
    elif preset == "imagenet":
        # The rate of the paper, which lowers it by a tenth every 10,000 updates; optimiser, batch and epochs of
        # ahmdtaha's port (tf_learning_to_count), whose rate falls at the end: here along a cosine.
        config.epochs, config.batch_size, config.data.size = 250, 256, 256
        config.optim.default = common.optimizer(name="adamw", learning_rate=1e-4, scaling="none")
    return config
