"""DeepCluster-v2. `python -m ssl_jax.main --config=configs/deepcluster.py:cifar10 --workdir=runs/deepcluster`."""

import dataclasses

from ml_collections import ConfigDict

from configs import common
from ssl_jax.augment import recipes


def get_config(preset: str = "cifar10") -> ConfigDict:
    """Returns the config; `preset` is one of `common.PRESETS`."""
    config = common.get_config("deepcluster", preset)
    # The authors' LARC: 4.8 at N = 4096, final rate .0048, nothing left out; their warm-up starts at .3, here at 0.
    larc = common.optimizer(name="larc", learning_rate=0.3, weight_decay=1e-6, final=0.001, warmup_epochs=10.0)
    if preset == "digits":
        small = dataclasses.replace(recipes.DIGITS, size=6, crop="torch", area=(0.5, 1.0))
        common.update(config.method, large=recipes.DIGITS, small=small, small_crops=2)
        common.update(config.method, hidden=128, out=64, prototypes=64)
        config.optim.default = common.optimizer(learning_rate=0.3, weight_decay=1e-4)
    elif preset == "fashion_mnist":
        common.update(config.method, large=recipes.FASHION, small_crops=0, hidden=128, prototypes=256)
        config.optim.default = common.optimizer(learning_rate=0.12, weight_decay=5e-4)
    elif preset == "cifar10":
        # The authors have no CIFAR recipe; this is solo-learn's (88.9 % linear accuracy after 1000 epochs), but for its
        # stem's padding of 2, its warm-up from 3e-5 and its views going through the network one by one.
        common.update(config.method, large=recipes.SOLO_SYMMETRIC, small_crops=0)
        config.batch_size = 256
        config.optim.default = common.update(
            larc, learning_rate=0.6, trust=0.02, trust_clip=True, exclude="1d", final=0.0
        )
    elif preset == "cifar10_small":
        # The recipe of SwAV's preset of that name, but for views going through the network together; lightly has none.
        large = dataclasses.replace(recipes.LIGHTLY_SIMCLR, area=(0.14, 1.0))
        common.update(config.method, large=large, small_crops=0, hidden=128, prototypes=256)
        config.optim.default = common.optimizer(
            name="adam", learning_rate=2e-3, weight_decay=1e-6, scaling="none", per_epoch=True
        )
    elif preset == "imagenet":
        # deepclusterv2_800ep_pretrain.sh: 75.2 % linear accuracy. Its BatchNorm sees 512 images, which on up to 8
        # devices is config.model.bn_groups = 8.
        config.epochs = 800
        config.optim.default = larc
    return config
