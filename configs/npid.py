"""NPID. `python -m ssl_jax.main --config=configs/npid.py:cifar10 --workdir=runs/npid`."""

from ml_collections import ConfigDict

from configs import common
from ssl_jax.augment import recipes


def get_config(preset: str = "cifar10") -> ConfigDict:
    """Returns the config; `preset` is one of `common.PRESETS`."""
    config = common.get_config("npid", preset)
    # The authors' SGD: rates are absolute, drops by ten, weight decay on all parameters.
    sgd = common.optimizer(learning_rate=0.03, scaling="none", schedule="steps")
    if preset == "digits":
        # NCE collapses here: 5 updates an epoch are too few for a Z that stays.
        common.update(config.method, view=recipes.DIGITS, out=64, noise=0, temperature=0.2)
        config.batch_size = 64  # kNN .957 untrained, .989, .989 after 50, 100 epochs
        config.optim.default = common.optimizer(learning_rate=0.3, weight_decay=1e-4)
    elif preset == "fashion_mnist":
        common.update(config.method, view=recipes.FASHION, noise=0, temperature=0.1)
        config.optim.default = common.optimizer(learning_rate=0.06, weight_decay=5e-4)
    elif preset == "cifar10":
        # The authors' cifar.py with its full softmax: ResNet-18, 200 epochs, 80.8 % with the nearest neighbour.
        common.update(config.method, view=recipes.NPID_CIFAR, noise=0, temperature=0.1)
        config.epochs, config.batch_size = 200, 128
        config.optim.default = common.update(sgd, weight_decay=5e-4, milestones=(80, 120, 160))
    elif preset == "cifar10_small":
        # A row of the bank is visited 5 to 20 times in all: it takes the new vector, not its mean with a random start.
        common.update(config.method, view=recipes.LIGHTLY_SIMCLR, noise=0, temperature=0.1, momentum=0.0)
        config.optim.default.learning_rate = 0.06  # the authors' .03 for 128 images
    elif preset == "imagenet":
        # The authors' main.py: 200 epochs, 54.0 % linear accuracy with a ResNet-50 (46.8 % nearest neighbour).
        config.epochs, config.batch_size = 200, 256
        config.optim.default = common.update(sgd, weight_decay=1e-4, milestones=(120, 160))
    return config
