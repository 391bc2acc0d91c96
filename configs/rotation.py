"""RotNet. `python -m ssl_jax.main --config=configs/rotation.py:cifar10 --workdir=runs/rotation`."""

import dataclasses

from ml_collections import ConfigDict

from configs import common
from ssl_jax.augment import recipes

PRESETS = (*common.PRESETS, "photo_tiles")


def get_config(preset: str = "cifar10") -> ConfigDict:
    """Returns the config; `preset` is one of `PRESETS`."""
    config = common.get_config("rotation", preset, PRESETS)
    # The authors' SGD for CIFAR; they give the rate for 128 images, each in four rotations.
    sgd = common.optimizer(
        learning_rate=0.1, scaling="none", nesterov=True, weight_decay=5e-4, schedule="steps", factor=0.2
    )
    if preset == "digits":
        view = dataclasses.replace(recipes.DIGITS, degrees=0.0, shear=0.0)  # a turned digit has no upright
        common.update(config.method, view=view)
        config.optim.default = common.optimizer(learning_rate=0.1, weight_decay=5e-4)
    elif preset == "fashion_mnist":
        common.update(config.method, view=recipes.FASHION)
        config.optim.default = common.optimizer(learning_rate=0.1, weight_decay=5e-4)
    elif preset == "cifar10":
        common.update(config.method, view=recipes.ROTNET_CIFAR)
        config.epochs, config.batch_size = 200, 128
        config.optim.default = common.update(sgd, milestones=(60, 120, 160))
    elif preset in ("cifar10_small", "photo_tiles"):
        common.update(config.method, view=recipes.ROTNET_CIFAR)
    elif preset == "imagenet":
        # VISSL's schedule for a ResNet-50, with the authors' four rotations of each image (VISSL turns each once).
        config.epochs, config.batch_size = 105, 256
        config.optim.default = common.optimizer(
            learning_rate=0.1,
            weight_decay=1e-4,
            nesterov=True,
            schedule="steps",
            milestones=(30, 60, 90, 100),
        )
    return config
