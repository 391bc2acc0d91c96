"""SimSiam. `python -m ssl_jax.main --config=configs/simsiam.py:cifar10 --workdir=runs/simsiam`."""

import dataclasses

from ml_collections import ConfigDict

from configs import common
from ssl_jax.augment import recipes

PRESETS = (*common.PRESETS, "cifar10_lightly")


def get_config(preset: str = "cifar10") -> ConfigDict:
    """Returns the config; `preset` is one of `PRESETS`."""
    config = common.get_config("simsiam", preset, PRESETS)
    if preset == "digits":
        common.update(config.method, view1=recipes.DIGITS, view2=recipes.DIGITS, hidden=(256,), out=128, bottleneck=32)
        config.optim.default = common.optimizer(learning_rate=0.2, weight_decay=1e-4)
    elif preset == "fashion_mnist":
        common.update(config.method, view1=recipes.FASHION, view2=recipes.FASHION)
        common.update(config.method, hidden=(512,), out=512, bottleneck=128)
        config.optim.default = common.optimizer(learning_rate=0.06, weight_decay=5e-4)
    elif preset == "cifar10":
        # Paper, App. D: 91.8 % linear accuracy after 800 epochs.
        common.update(config.method, view1=recipes.SIMSIAM_CIFAR, view2=recipes.SIMSIAM_CIFAR, hidden=(2048,))
        config.epochs = 800
        config.model.zero_init = True
        config.optim.default = common.optimizer(learning_rate=0.03, weight_decay=5e-4, per_epoch=True)
    elif preset in ("cifar10_lightly", "cifar10_small"):
        # lightly's CIFAR-10 benchmark: best kNN (k = 200, T = 0.1) 76.4 %. Its learning rate does not grow with N, and
        # that of its predictor falls as all do.
        view = dataclasses.replace(recipes.LIGHTLY_SIMCLR, area=(0.2, 1.0))
        common.update(config.method, view1=view, view2=view, hidden=(2048,), out_norm="affine")
        common.update(config.optim.default, learning_rate=0.06, scaling="none")
        if preset == "cifar10_small":  # the same, made small
            common.update(config.method, hidden=(512,), out=512, bottleneck=128)
    elif preset == "imagenet":
        # README of the authors: N = 512, 67.7 % linear accuracy, 68.1 % with N = 256.
        config.epochs = 100
        config.batch_size = 512
        config.model.zero_init = True
        config.optim.default = common.optimizer(learning_rate=0.05, weight_decay=1e-4, per_epoch=True)
    # Sec. 4.2 and --fix-pred-lr: the predictor should keep up with the representation to the end.
    constant = preset not in ("cifar10_lightly", "cifar10_small")
    config.optim.predictor = common.optimizer(**config.optim.default)
    config.optim.predictor.schedule = "constant" if constant else config.optim.default.schedule
    return config
