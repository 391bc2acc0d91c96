"""SimSiam."""

from dataclasses import replace

from ssl_jax.augment import recipes as views
from ssl_jax.recipes.cards import LIGHTLY_SGD
from ssl_jax.recipes.layer import Expected, Layer, Recipe

# Sec. 4.2 and --fix-pred-lr: the predictor should keep up with the representation to the end.
COMMON = Layer(groups={"predictor": {"schedule": "constant"}})

_crop = replace(views.LIGHTLY_SIMCLR, area=(0.2, 1.0))
# lightly's learning rate does not grow with N, and that of its predictor falls as all do.
LIGHTLY = Recipe(
    source="lightly's CIFAR-10 benchmark",
    expected=(Expected(0.764, "knn"),),
    method={"view1": _crop, "view2": _crop, "hidden": (2048,), "out_norm": "affine"},
    optim={**LIGHTLY_SGD, "learning_rate": 0.06, "scaling": "none"},
    groups={"predictor": {"schedule": "cosine"}},
)

RECIPES = {
    "cifar10": Recipe(
        source="paper, App. D: 800 epochs",
        expected=(Expected(0.918, "linear"),),
        epochs=800,
        method={"view1": views.SIMSIAM_CIFAR, "view2": views.SIMSIAM_CIFAR, "hidden": (2048,)},
        model={"zero_init": True},
        optim={"learning_rate": 0.03, "weight_decay": 5e-4, "per_epoch": True},
    ),
    "cifar10_lightly": LIGHTLY,
    "imagenet": Recipe(
        source="README of facebookresearch/simsiam: N = 512, 100 epochs",
        expected=(Expected(0.677, "linear"), Expected(0.681, "linear", "with N = 256")),
        epochs=100,
        batch_size=512,
        model={"zero_init": True},
        optim={"learning_rate": 0.05, "weight_decay": 1e-4, "per_epoch": True},
    ),
}

SMALL = Layer(
    method={"hidden": (512,), "out": 512, "bottleneck": 128},
    optim={"learning_rate": 0.06, "weight_decay": 5e-4},
)

UNPUBLISHED = {
    "digits": Recipe(
        method={"hidden": (256,), "out": 128, "bottleneck": 32}, optim={"learning_rate": 0.2, "weight_decay": 1e-4}
    ),
    # lightly's, made small.
    "cifar10_small": LIGHTLY.but(method={"hidden": (512,), "out": 512, "bottleneck": 128}),
}
