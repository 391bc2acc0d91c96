"""MoCo v1."""

from ssl_jax.augment import recipes as views
from ssl_jax.recipes.layer import Expected, Layer, Recipe

COMMON = Layer(model={"bn_groups": 8})  # the authors' 8 GPUs, each with BatchNorm statistics of its own

RECIPES = {
    # kNN of the authors is of the 128 outputs, not of the backbone's features as here.
    "cifar10": Recipe(
        source="the authors' CIFAR demo (a notebook linked in the README of facebookresearch/moco), asymmetric",
        expected=(
            Expected(0.826, "knn", "of the 128 outputs"),
            Expected(0.863, "knn", "of the 128 outputs, after 400 epochs"),
            Expected(0.887, "knn", "of the 128 outputs, after 800 epochs"),
        ),
        epochs=200,
        method={
            "view1": views.MOCO_CIFAR,
            "view2": views.MOCO_CIFAR,
            "temperature": 0.1,
            "queue_size": 4096,
            "m": 0.99,
        },
        optim={"learning_rate": 0.06, "scaling": "none", "weight_decay": 5e-4, "per_epoch": True},
    ),
    "imagenet": Recipe(
        source="main_moco.py of facebookresearch/moco",
        expected=(Expected(0.606, "linear"),),
        epochs=200,
        batch_size=256,
        optim={"learning_rate": 0.03, "weight_decay": 1e-4, "schedule": "steps", "milestones": (120, 160)},
    ),
}

SMALL = Layer(
    method={"temperature": 0.1, "queue_size": 4096, "m": 0.99},
    optim={"learning_rate": 0.06, "weight_decay": 5e-4},
)

UNPUBLISHED = {
    "digits": Recipe(
        batch_size=128, method={"out": 64, "queue_size": 512}, optim={"learning_rate": 0.3, "weight_decay": 1e-4}
    ),
    # The demo, made small, at the rate of lightly's benchmark of MoCo v2.
    "cifar10_small": Recipe(method={"temperature": 0.1, "queue_size": 2048, "m": 0.99}),
}
