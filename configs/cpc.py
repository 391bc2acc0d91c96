"""CPC. `python -m ssl_jax.main --config=configs/cpc.py:cifar10 --workdir=runs/cpc`."""

import dataclasses

from ml_collections import ConfigDict

from configs import common
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View

PRESETS = (*common.PRESETS, "imagenet_v1")
replace = dataclasses.replace


def get_config(preset: str = "cifar10") -> ConfigDict:
    """Returns the config; `preset` is one of `PRESETS`: `imagenet` is version 2, `imagenet_v1` version 1."""
    config = common.get_config("cpc", "imagenet" if preset == "imagenet_v1" else preset, PRESETS)
    config.model.norm = "layer"  # v2; BatchNorm would let patches know of each other
    # Values in [0, 1]: a patch's own view normalises.
    unit = {"mean": (0.0,), "std": (1.0,)}
    # No recipe of this size is known to learn (Greedy InfoMax has Adam 2e-4 at 32 images for STL-10): a quicker one.
    small = common.optimizer(name="adamw", learning_rate=1e-3, scaling="none", warmup_epochs=1.0)
    if preset == "digits":
        # 3x3 patches of 4 pixels: from the top row the bottom row, and so in all four directions.
        view = replace(recipes.DIGITS, jitter=0.0, order=("affine", "crop"), **unit)
        patch = replace(recipes.DIGITS, size=4, crop="shift", pad=0, affine=0.0, order=("crop", "jitter"))
        common.update(config.method, view=view, patch=patch, patch_size=4, stride=2, gray=False, directions=2)
        common.update(config.method, blocks=2, hidden=64)
        config.batch_size = 64  # kNN .926 untrained, .942, .957 after 50, 100 epochs
        config.optim.default = small
    elif preset == "fashion_mnist":
        # 6x6 patches of 8 pixels, half overlapping.
        view = replace(recipes.FASHION, area=(0.6, 1.0), jitter=0.0, order=("crop", "flip"), **unit)
        patch = replace(recipes.FASHION, size=7, crop="shift", pad=0, flip=0.0, order=("crop", "jitter"))
        common.update(config.method, view=view, patch=patch, patch_size=8, stride=4, gray=False, directions=2)
        common.update(config.method, blocks=3, hidden=64)
        config.batch_size = 64  # every patch of the batch is a candidate
        config.optim.default = small
    elif preset in ("cifar10", "cifar10_small"):
        # 7x7 patches of 8 pixels, half overlapping, with v2's augmentation of each patch. Neither the authors nor
        # solo-learn have a recipe for CIFAR; no number is known.
        view = View(size=32, area=(0.6, 1.0), flip=0.5, order=("crop", "flip"), **unit)  # a border would tell a shift
        patch = replace(recipes.LIGHTLY_SIMCLR, size=7, crop="shift", pad=0, order=("crop", "flip", "jitter", "gray"))
        common.update(config.method, view=view, patch=patch, patch_size=8, stride=4, gray=False)
        common.update(config.method, directions=2, blocks=3, hidden=64)
        config.batch_size = 64  # every patch of the batch is a candidate
        config.optim.default = small
        if preset == "cifar10":
            config.epochs = 300
            common.update(config.method, directions=4, blocks=5, hidden=256)
    elif preset == "imagenet_v1":
        # v1 (sec. 3.3), which is what the method's fields are: 48.7 % linear accuracy with a ResNet-101 v2 without
        # norms, up to its third stage. This ResNet keeps LayerNorm, without which its values would grow from block to
        # block. The number of epochs is not told.
        config.model.name, config.data.size = "resnet101", 300
        config.epochs, config.batch_size = 200, 512
        config.optim.default = common.optimizer(name="adam", learning_rate=2e-4, scaling="none", schedule="constant")
    elif preset == "imagenet":
        # v2 with a ResNet-50: 63.8 % linear accuracy. 260 pixels hold 6x6 of its patches; its augmentation, optimiser
        # and epochs were not published in full.
        config.data.size = 300
        view = View(size=260, crop="shift", pad=0, flip=0.5, order=("crop", "flip"), **unit)
        colours = {"jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "gray": 0.2}
        patch = View(size=72, crop="shift", pad=0, flip=0.5, order=("crop", "flip", "jitter", "gray"), **colours)
        common.update(config.method, view=view, patch=patch, patch_size=80, stride=36, gray=False)
        common.update(config.method, colour_drop=1.0, directions=4, skip=2)
        config.epochs, config.batch_size = 200, 512
        config.optim.default = common.optimizer(name="adamw", learning_rate=4e-4, scaling="none", schedule="constant")
    return config
