"""MoCo v3. `python -m ssl_jax.main --config=configs/mocov3.py:cifar10 --workdir=runs/mocov3`."""

from ml_collections import ConfigDict

from configs import common
from ssl_jax.augment import recipes

PRESETS = (*common.PRESETS, "imagenet_vit")


def get_config(preset: str = "cifar10") -> ConfigDict:
    """Returns the config; `preset` is one of `PRESETS`: `imagenet` has a ResNet-50, `imagenet_vit` a ViT-S/16."""
    config = common.get_config("mocov3", "imagenet" if preset == "imagenet_vit" else preset, PRESETS)
    if preset == "digits":
        common.update(config.method, view1=recipes.DIGITS, view2=recipes.DIGITS, hidden=128, out=64, temperature=0.2)
        config.optim.default = common.optimizer(learning_rate=0.3, weight_decay=1e-4)
    elif preset == "fashion_mnist":
        common.update(config.method, view1=recipes.FASHION, view2=recipes.FASHION, hidden=512, out=128, temperature=0.2)
        config.optim.default = common.optimizer(learning_rate=0.06, weight_decay=5e-4)
    elif preset == "cifar10":
        # The authors' CIFAR models start from ImageNet weights; this is solo-learn's recipe (93.1 % linear accuracy
        # after 1000 epochs), but for its stem's padding of 2 and its warm-up from 3e-5, which here are 1 and 0.
        view1, view2 = recipes.SOLO_ASYMMETRIC
        common.update(config.method, view1=view1, view2=view2, temperature=0.2)
        config.batch_size = 256
        config.optim.default = common.solo_larc(learning_rate=0.3, weight_decay=1e-6)
    elif preset == "cifar10_small":
        # lightly's benchmark has no MoCo v3; its views and optimiser, at half the rate: the loss is of two directions.
        view1, view2 = recipes.LIGHTLY_BYOL
        common.update(config.method, view1=view1, view2=view2, hidden=1024, out=128, temperature=0.2)
        config.optim.default.learning_rate = 0.06
    elif preset == "imagenet":
        # README of facebookresearch/moco-v3: 100 epochs 68.9 % linear accuracy; 300 epochs at .3, 72.8 %.
        config.epochs = 100
        config.model.zero_init = True
        config.optim.default = common.lars("outside", learning_rate=0.6, weight_decay=1e-6)
    elif preset == "imagenet_vit":
        # README of facebookresearch/moco-v3: ViT-S/16, 300 epochs 73.2 % linear accuracy. All parameters are decayed.
        view1, view2 = recipes.MOCO_V3_VIT
        common.update(config.method, view1=view1, view2=view2, layers=3, predictor_norm=True, temperature=0.2)
        config.epochs = 300
        common.update(config.model, name="vit_small", heads=12, positions="sincos", vit_init="mocov3", fixed_patch=True)
        config.optim.default = common.optimizer(
            name="adamw", learning_rate=1.5e-4, weight_decay=0.1, warmup_epochs=40.0
        )
    return config
