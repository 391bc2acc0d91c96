"""Jigsaw puzzles. `python -m ssl_jax.main --config=configs/jigsaw.py:cifar10 --workdir=runs/jigsaw`."""

import dataclasses

from ml_collections import ConfigDict

from configs import common
from ssl_jax.augment.view import View
from ssl_jax.methods.pretext.jigsaw import VIEW

PRESETS = common.LARGE_PRESETS
replace = dataclasses.replace


def get_config(preset: str = "cifar10") -> ConfigDict:
    """Returns the config; `preset` is one of `PRESETS`."""
    config = common.get_config("jigsaw", preset, PRESETS)
    small = View(area=(0.6, 1.0), flip=0.5, order=("crop", "flip"), mean=VIEW.mean, std=VIEW.std)
    if preset == "photo_tiles":  # two images, cut up in the test suite: no grey ones, as for larger data below
        common.update(config.method, view=replace(small, size=32), tile=8, aberration=1, permutations=24, orders=4)
        common.update(config.method, tile_width=64, hidden=())
        config.optim.default = common.optimizer(learning_rate=0.3, weight_decay=1e-4)
    elif preset == "fashion_mnist":
        common.update(config.method, view=replace(small, size=42), tile=11, aberration=0, orders=8)
        common.update(config.method, tile_width=128, hidden=(512,))
        config.optim.default = common.optimizer(learning_rate=0.1, weight_decay=5e-4)
    elif preset in ("cifar10", "cifar10_small"):
        # The authors have no recipe for CIFAR. Enlarged to tiles of 12 pixels, of which a ResNet-18 makes 2 x 2
        # vectors; 8 orders an image (Kolesnikov et al. 2019) cost next to nothing.
        view = replace(small, size=48, gray=0.3, order=("crop", "flip", "gray"))
        common.update(config.method, view=view, tile=12, aberration=1, orders=8)
        common.update(config.method, tile_width=128, hidden=(512,))
        if preset == "cifar10":
            config.epochs, config.batch_size = 200, 128
            config.optim.default = common.optimizer(learning_rate=0.1, weight_decay=5e-4)
    elif preset == "imagenet":
        # VISSL's ResNet-50: 2000 permutations, grey two times of three, 105 epochs: 46.7 % linear accuracy.
        view = replace(VIEW, flip=0.5, gray=0.66, order=("flip", "crop", "gray"))
        common.update(config.method, view=view, permutations=2000, tile_width=1000, tile_norm=True, hidden=())
        config.epochs, config.batch_size, config.data.size = 105, 256, 256
        config.optim.default = common.optimizer(
            learning_rate=0.1,
            weight_decay=1e-4,
            nesterov=True,
            schedule="steps",
            milestones=(30, 60, 90, 100),
            warmup_epochs=5.0,
        )
    return config
