"""MoCo v1. `python -m ssl_jax.main --config=configs/mocov1.py:cifar10 --workdir=runs/mocov1`."""

from ml_collections import ConfigDict

from configs import common
from ssl_jax.augment import recipes


def get_config(preset: str = "cifar10") -> ConfigDict:
    """Returns the config; `preset` is one of `common.PRESETS`."""
    config = common.get_config("mocov1", preset)
    config.model.bn_groups = 8  # the authors' 8 GPUs, each with BatchNorm statistics of its own
    if preset == "digits":
        common.update(config.method, view1=recipes.DIGITS, view2=recipes.DIGITS, out=64)
        common.update(config.method, temperature=0.1, queue_size=512, m=0.99)
        config.batch_size = 128
        config.optim.default = common.optimizer(learning_rate=0.3, weight_decay=1e-4)
    elif preset == "fashion_mnist":
        common.update(config.method, view1=recipes.FASHION, view2=recipes.FASHION)
        common.update(config.method, temperature=0.1, queue_size=4096, m=0.99)
        config.optim.default = common.optimizer(learning_rate=0.06, weight_decay=5e-4)
    elif preset == "cifar10":
        # The authors' CIFAR demo (a notebook linked in their README), asymmetric: kNN (k = 200, T = 0.1, of the 128
        # outputs, not of the backbone's features as here) 82.6, 86.3, 88.7 % after 200, 400, 800 epochs.
        common.update(config.method, view1=recipes.MOCO_CIFAR, view2=recipes.MOCO_CIFAR)
        common.update(config.method, temperature=0.1, queue_size=4096, m=0.99)
        config.epochs = 200
        config.optim.default = common.optimizer(learning_rate=0.06, scaling="none", weight_decay=5e-4, per_epoch=True)
    elif preset == "cifar10_small":
        # The demo, made small, at the rate of lightly's benchmark of MoCo v2.
        common.update(config.method, view1=recipes.LIGHTLY_SIMCLR, view2=recipes.LIGHTLY_SIMCLR)
        common.update(config.method, temperature=0.1, queue_size=2048, m=0.99)
    elif preset == "imagenet":
        # main_moco.py: 60.6 % linear accuracy.
        config.epochs = 200
        config.batch_size = 256
        config.optim.default = common.optimizer(
            learning_rate=0.03, weight_decay=1e-4, schedule="steps", milestones=(120, 160)
        )
    return config
