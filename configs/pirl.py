"""PIRL. `python -m ssl_jax.main --config=configs/pirl.py:cifar10 --workdir=runs/pirl`."""

import dataclasses

from ml_collections import ConfigDict

from configs import common
from ssl_jax.augment import recipes
from ssl_jax.augment.view import View

replace = dataclasses.replace


def _jigsaw(config: ConfigDict, view: View, large: View, cell: int, patch: int) -> None:
    """Sets the views: an image, and a grid of cells out of each of which a patch with the image's colours is cut."""
    large = replace(large, size=cell * config.method.grid, pillow=view.pillow, mean=(0.0,), std=(1.0,))
    order = tuple(step for step in view.order if step != "affine")
    small = replace(view, size=patch, crop="shift", pad=0, affine=0.0, order=order)
    common.update(config.method, view=view, large=large, patch=small)


def get_config(preset: str = "cifar10") -> ConfigDict:
    """Returns the config; `preset` is one of `common.PRESETS`."""
    config = common.get_config("pirl", preset)
    crop = View(area=(0.6, 1.0), order=("crop",))
    if preset != "imagenet":  # NCE wants more updates an epoch than these have
        config.method.criterion = "cross_entropy"
    if preset == "digits":
        # A ninth of an 8x8 digit shows nothing: four quarters of 4 pixels, enlarged twice, of which 3 are seen.
        config.method.grid = 2
        affine = replace(recipes.DIGITS, jitter=0.0, order=("affine", "crop"))
        _jigsaw(config, recipes.DIGITS, affine, cell=8, patch=6)
        common.update(config.method, out=64, noise=256, temperature=0.2)
        config.batch_size = 64  # kNN .957 untrained, .982 after 40 epochs
        config.optim.default = common.optimizer(learning_rate=0.3, weight_decay=1e-4)
    elif preset == "fashion_mnist":
        _jigsaw(config, recipes.FASHION, crop, cell=9, patch=7)
        config.method.noise = 1024
        config.optim.default = common.optimizer(learning_rate=0.06, weight_decay=5e-4)
    elif preset in ("cifar10", "cifar10_small"):
        # Neither the authors nor solo-learn have a recipe for CIFAR: NPID's noise and SimCLR's colours. No number.
        view = recipes.LIGHTLY_SIMCLR if preset == "cifar10_small" else recipes.SIMCLR_CIFAR
        _jigsaw(config, view, crop, cell=10, patch=8)
        config.method.noise = 4096
        if preset == "cifar10":
            config.epochs, config.batch_size = 200, 128
            config.optim.default = common.optimizer(learning_rate=0.06, weight_decay=5e-4)
        else:  # as NPID's
            config.method.momentum, config.optim.default.learning_rate = 0.0, 0.06
    elif preset == "imagenet":
        # VISSL: 800 epochs, 64.3 % linear accuracy (the paper's 63.6); 200 epochs 62.9 %.
        config.epochs, config.batch_size = 800, 1024
        config.optim.default = common.optimizer(
            learning_rate=0.03, weight_decay=1e-4, exclude="1d", per_epoch=True, final=0.001
        )
    return config
