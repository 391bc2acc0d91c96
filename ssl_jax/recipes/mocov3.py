"""MoCo v3: `imagenet` has a ResNet-50, `imagenet_vit` a ViT-S/16."""

from ssl_jax.augment import recipes as views
from ssl_jax.recipes.cards import SMALL_SGD
from ssl_jax.recipes.layer import Expected, Layer, Recipe, lars, solo_larc

RECIPES = {
    # The authors' CIFAR models start from ImageNet weights. This one is solo-learn's but for the stem's padding of 2
    # and the warm-up from 3e-5, which here are 1 and 0.
    "cifar10": Recipe(
        source="solo-learn",
        expected=(Expected(0.931, "linear", "after 1000 epochs"),),
        batch_size=256,
        method={"view1": views.SOLO_ASYMMETRIC[0], "view2": views.SOLO_ASYMMETRIC[1], "temperature": 0.2},
        optim=solo_larc(learning_rate=0.3, weight_decay=1e-6),
    ),
    "imagenet": Recipe(
        source="README of facebookresearch/moco-v3: 100 epochs; 300 epochs at a rate of .3",
        expected=(Expected(0.689, "linear"), Expected(0.728, "linear", "after 300 epochs")),
        epochs=100,
        model={"zero_init": True},
        optim=lars("outside", learning_rate=0.6, weight_decay=1e-6),
    ),
    # All parameters are decayed.
    "imagenet_vit": Recipe(
        card="imagenet",
        source="README of facebookresearch/moco-v3: ViT-S/16, 300 epochs",
        expected=(Expected(0.732, "linear"),),
        epochs=300,
        method={
            "view1": views.MOCO_V3_VIT[0],
            "view2": views.MOCO_V3_VIT[1],
            "layers": 3,
            "predictor_norm": True,
            "temperature": 0.2,
        },
        model={
            "name": "vit_small",
            "heads": 12,
            "positions": "sincos",
            "vit_init": "mocov3",
            "fixed_patch": True,
        },
        optim={"name": "adamw", "learning_rate": 1.5e-4, "weight_decay": 0.1, "warmup_epochs": 40.0},
    ),
}

SMALL = Layer(
    method={"hidden": 512, "out": 128, "temperature": 0.2},
    optim={"learning_rate": 0.06, "weight_decay": 5e-4},
)

UNPUBLISHED = {
    "digits": Recipe(method={"hidden": 128, "out": 64}, optim={"learning_rate": 0.3, "weight_decay": 1e-4}),
    # lightly's benchmark has no MoCo v3; its views and optimiser, at half the rate: the loss is of two directions.
    "cifar10_small": Recipe(
        method={
            "view1": views.LIGHTLY_BYOL[0],
            "view2": views.LIGHTLY_BYOL[1],
            "hidden": 1024,
            "out": 128,
            "temperature": 0.2,
        },
        optim={**SMALL_SGD, "learning_rate": 0.06},
    ),
}
