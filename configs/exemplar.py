"""Exemplar-CNN. `python -m ssl_jax.main --config=configs/exemplar.py:cifar10 --workdir=runs/exemplar`."""

import dataclasses

from ml_collections import ConfigDict

from configs import common
from ssl_jax.augment import recipes
from ssl_jax.methods.pretext.exemplar import INCEPTION, TRANSFORMATIONS

PRESETS = (*common.PRESETS, "photo_tiles")
replace = dataclasses.replace


def get_config(preset: str = "cifar10") -> ConfigDict:
    """Returns the config; `preset` is one of `PRESETS`."""
    config = common.get_config("exemplar", preset, PRESETS)
    # Gray images have no colour components; of HSV they have the value.
    gray = replace(TRANSFORMATIONS, pca=0.0, order=("affine", "crop", "hsv"))
    cifar = {"mean": recipes.CIFAR10_MEAN, "std": recipes.CIFAR10_STD}
    if preset == "digits":
        common.update(config.method, view=replace(gray, size=8, translate=0.15, mean=(0.3,), std=(0.37,)))
        config.batch_size = (
            64  # with dropout it takes many updates: kNN .946 untrained, .984, .989 after 50, 100 epochs
        )
        config.optim.default = common.optimizer(learning_rate=0.3, weight_decay=1e-4)
    elif preset == "fashion_mnist":
        # A softmax over 60,000 classes would be most of the work: triplets.
        view = replace(gray, size=28, flip=0.5, order=("affine", "crop", "flip", "hsv"), mean=(0.286,), std=(0.353,))
        common.update(config.method, view=view, copies=4, triplet=128)
        config.optim.default = common.optimizer(learning_rate=0.06, weight_decay=5e-4)
    elif preset == "cifar10":
        # The authors' softmax and transformations, on CIFAR and with a ResNet-18. Their net of three convolutions has
        # 16,000 patches of STL-10 for classes and reaches 72.8 % there; no number is known for this one. A ResNet with
        # BatchNorm takes SGD and a cosine; their rates and decays of each layer (.01 in five steps, .004) are its own.
        common.update(config.method, view=replace(TRANSFORMATIONS, **cifar))
        config.epochs, config.batch_size = 200, 128
        config.optim.default = common.optimizer(learning_rate=0.06, weight_decay=5e-4)
    elif preset in ("cifar10_small", "photo_tiles"):
        # 780 updates are too few for a softmax over 10,000 classes: pairs and triplets. A crop has a fifth of the image
        # at least, as is usual at 32 pixels.
        view = replace(INCEPTION, size=32, crop="torch", area=(0.2, 1.0), **cifar)
        common.update(config.method, view=view, copies=2, triplet=128)
    elif preset == "imagenet":
        # Kolesnikov et al. 2019, config/exemplar/imagenet.sh, but for their network, a ResNet-50 three times as wide.
        common.update(config.method, view=INCEPTION, copies=8, triplet=1000)
        config.epochs, config.batch_size = 35, 64
        config.optim.default = common.optimizer(
            learning_rate=0.1, weight_decay=1e-4, schedule="steps", milestones=(15, 25), warmup_epochs=5.0
        )
    return config
