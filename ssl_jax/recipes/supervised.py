"""Supervised baseline: what the self-supervised runs are measured by.

Give it their epochs, backbone and batch, and name it with
`python -m ssl_jax.evaluate --workdir=runs/simclr --supervised=runs/supervised`.
"""

from ssl_jax.augment import recipes as views
from ssl_jax.recipes.layer import Recipe

RECIPES = {
    # Pad, cut and flip; SGD, 200 epochs of 128 images.
    "cifar10": Recipe(
        source="the usual recipe of a ResNet-18 on CIFAR-10",
        epochs=200,
        batch_size=128,
        method={"view": views.ROTNET_CIFAR},
        optim={"learning_rate": 0.1, "scaling": "none", "nesterov": True, "weight_decay": 5e-4},
    ),
    # SGD 0.1 times N / 256, ten times lower after 30, 60 and 80 epochs.
    "imagenet": Recipe(
        source="Goyal et al. 2017 (arXiv 1706.02677)",
        epochs=90,
        batch_size=256,
        model={"zero_init": True},
        optim={
            "learning_rate": 0.1,
            "nesterov": True,
            "weight_decay": 1e-4,
            "schedule": "steps",
            "milestones": (30, 60, 80),
        },
    ),
}

UNPUBLISHED = {"digits": Recipe(method={"view": views.DIGITS})}
