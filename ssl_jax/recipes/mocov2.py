"""MoCo v2."""

from ssl_jax.augment import recipes as views
from ssl_jax.recipes import mocov1
from ssl_jax.recipes.layer import Expected, Layer, Recipe

COMMON = mocov1.COMMON

# A queue of 8192 at N = 512. There the second direction already meets the keys of the first in the queue, here only
# those of earlier batches.
LIGHTLY = Recipe(
    source="lightly's CIFAR-10 benchmark",
    expected=(Expected(0.847, "knn"),),
    method={
        "view1": views.LIGHTLY_SIMCLR,
        "view2": views.LIGHTLY_SIMCLR,
        "hidden": (512,),
        "temperature": 0.1,
        "queue_size": 8192,
        "m": 0.99,
        "symmetric": True,
        "scale": 0.5,
    },
)

RECIPES = {
    # kNN of the authors is of the 128 outputs, not of the backbone's features as here. The demo's head is linear.
    "cifar10": Recipe(
        source="the authors' CIFAR demo (a notebook linked in the README of facebookresearch/moco), symmetric",
        expected=(
            Expected(0.853, "knn", "of the 128 outputs"),
            Expected(0.885, "knn", "of the 128 outputs, after 400 epochs"),
            Expected(0.897, "knn", "of the 128 outputs, after 800 epochs"),
        ),
        epochs=200,
        method={
            "view1": views.MOCO_CIFAR,
            "view2": views.MOCO_CIFAR,
            "hidden": (),
            "temperature": 0.1,
            "queue_size": 4096,
            "m": 0.99,
            "symmetric": True,
        },
        optim={"learning_rate": 0.06, "scaling": "none", "weight_decay": 5e-4, "per_epoch": True},
    ),
    "cifar10_lightly": LIGHTLY,
    "imagenet": Recipe(
        source="main_moco.py of facebookresearch/moco with --mlp --aug-plus --cos",
        expected=(Expected(0.675, "linear"), Expected(0.711, "linear", "after 800 epochs")),
        epochs=200,
        batch_size=256,
        optim={"learning_rate": 0.03, "weight_decay": 1e-4, "per_epoch": True},
    ),
}

SMALL = Layer(
    method={"hidden": (128,), "queue_size": 4096, "m": 0.99},
    optim={"learning_rate": 0.06, "weight_decay": 5e-4},
)

UNPUBLISHED = {
    "digits": Recipe(
        batch_size=128,
        method={"out": 64, "temperature": 0.1, "queue_size": 512},
        optim={"learning_rate": 0.3, "weight_decay": 1e-4},
    ),
    # lightly's, made small.
    "cifar10_small": LIGHTLY.but(method={"hidden": (128,), "queue_size": 4096}),
}
