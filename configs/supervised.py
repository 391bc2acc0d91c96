"""Supervised baseline. `python -m ssl_jax.main --config=configs/supervised.py:cifar10 --workdir=runs/supervised`.

The yardstick of the self-supervised runs: give it their epochs, backbone and batch, and name it with
`python -m ssl_jax.evaluate --workdir=runs/simclr --supervised=runs/supervised`.
"""

from ml_collections import ConfigDict

from configs import common
from ssl_jax.augment import recipes


def get_config(preset: str = "cifar10") -> ConfigDict:
    """Returns the config; `preset` is one of `common.PRESETS`."""
    config = common.get_config("supervised", preset)
    if preset == "digits":
        common.update(config.method, view=recipes.DIGITS)
        config.optim.default = common.optimizer(learning_rate=0.1, weight_decay=5e-4)
    elif preset == "fashion_mnist":
        common.update(config.method, view=recipes.FASHION)
        config.optim.default = common.optimizer(learning_rate=0.1, weight_decay=5e-4)
    elif preset == "cifar10":
        # The usual recipe of a ResNet-18 on CIFAR-10: pad, cut and flip; SGD, 200 epochs of 128 images.
        common.update(config.method, view=recipes.ROTNET_CIFAR)
        config.epochs, config.batch_size = 200, 128
        config.optim.default = common.optimizer(learning_rate=0.1, scaling="none", nesterov=True, weight_decay=5e-4)
    elif preset == "cifar10_small":  # optimiser and epochs as every method has them there
        common.update(config.method, view=recipes.ROTNET_CIFAR)
    elif preset == "imagenet":
        # Goyal et al. 2017 (arXiv 1706.02677): SGD 0.1 times N / 256, ten times lower after 30, 60 and 80 epochs.
        config.epochs, config.batch_size = 90, 256
        config.model.zero_init = True
        config.optim.default = common.optimizer(
            learning_rate=0.1, nesterov=True, weight_decay=1e-4, schedule="steps", milestones=(30, 60, 80)
        )
    return config
