"""Autoencoder. `python -m ssl_jax.main --config=configs/autoencoder.py:cifar10 --workdir=runs/autoencoder`."""

import dataclasses

from ml_collections import ConfigDict

from configs import common
from ssl_jax.augment import recipes
from ssl_jax.methods.pretext.autoencoder import CROP

VIEWS = {
    "digits": dataclasses.replace(recipes.DIGITS, jitter=0.0),
    "fashion_mnist": dataclasses.replace(recipes.FASHION, jitter=0.0),
    "cifar10": dataclasses.replace(CROP, size=32, mean=recipes.CIFAR10_MEAN, std=recipes.CIFAR10_STD),
    "cifar10_small": dataclasses.replace(CROP, size=32),
    "imagenet": CROP,
}


def get_config(preset: str = "cifar10", method: str = "autoencoder") -> ConfigDict:
    """Returns the config of `method`, of this family; `preset` is one of `common.PRESETS`. No authors' recipe."""
    config = common.get_config(method, preset)
    # Adam's first updates are of full size, however small the gradient: a short warm-up.
    config.optim.default = common.optimizer(
        name="adamw", learning_rate=1e-3, scaling="none", weight_decay=1e-4, warmup_epochs=0.25
    )
    common.update(config.method, view=VIEWS[preset])
    if preset == "digits":
        config.method.widths = (64, 32)
    elif preset in ("fashion_mnist", "cifar10_small"):
        config.method.widths = (64, 32, 16)
    elif preset == "cifar10":
        config.method.widths = (256, 128, 64)
        config.epochs, config.batch_size = 200, 256
    elif preset == "imagenet":
        config.epochs, config.batch_size = 100, 256
        config.optim.default.warmup_epochs = 5.0
    return config
