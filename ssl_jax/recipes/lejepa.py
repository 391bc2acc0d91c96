"""LeJEPA."""

from dataclasses import replace
from typing import Any

from ssl_jax.augment import recipes as views
from ssl_jax.recipes.layer import Expected, Layer, Recipe, solo_larc

# Two views and eb_jepa's statistic. Its invariance is the mean squared difference of two views, four times that from
# their mean.
EB_JEPA: dict[str, Any] = {
    "globals": 2,
    "locals": 0,
    "out": 128,
    "slices": 256,
    "sigreg_weight": 10.0,
    "invariance_weight": 4.0,
    "knots": 10,
    "mirrored": False,
    "times_n": False,
}

RECIPES = {
    # But for the stem's padding of 2 and the warm-up from 3e-5, here 1 and 0, and that both views are one batch for
    # BatchNorm.
    "cifar10": Recipe(
        source="eb_jepa's CIFAR-10 example (BCS): 300 epochs; the authors have no CIFAR recipe",
        expected=(Expected(0.9102, "linear"),),
        epochs=300,
        batch_size=256,
        method={**EB_JEPA, "view": replace(views.SOLO_VICREG, blur=0.0)},
        optim=solo_larc(learning_rate=0.3, weight_decay=1e-4, per_epoch=True),
    ),
    "imagenet": Recipe(
        source="README of rbalestr-lab/lejepa; the result is the abstract's, of a ViT-H/14",
        expected=(Expected(0.79, "linear"),),
        batch_size=512,
        method={"out": 512},
        model={"name": "vit_huge", "patch": 14},
        optim={
            "name": "adamw",
            "learning_rate": 5e-4,
            "scaling": "none",
            "weight_decay": 0.05,
            "warmup_epochs": 1.0,
            "final": 1e-3,
        },
    ),
    # But for the linear layer of 512 channels behind the backbone, on which the authors' probe stands. All parameters
    # are decayed; the rate ends at half its peak, as the authors' scheduler has it.
    "imagenette": Recipe(
        source="MINIMAL.md of rbalestr-lab/lejepa: ViT-S/8, 800 epochs",
        expected=(Expected(0.907, "linear", "online"),),
        epochs=800,
        batch_size=256,
        method={
            "view": views.LEJEPA_MINIMAL,
            "globals": 4,
            "locals": 0,
            "out": 16,
            "slices": 256,
            "sigreg_weight": 0.02,
            "invariance_weight": 0.98,
            "centre": "all",
        },
        model={"name": "vit_small", "patch": 8},
        optim={
            "name": "adamw",
            "learning_rate": 2e-3,
            "scaling": "none",
            "weight_decay": 0.05,
            "warmup_epochs": 1.0,
            "final": 0.5,
        },
    ),
}

SMALL = Layer(
    method={**EB_JEPA, "hidden": (256,), "out": 64},
    optim=solo_larc(learning_rate=0.3, weight_decay=1e-4, warmup_epochs=1.0),
)

UNPUBLISHED = {
    "digits": Recipe(
        method={**EB_JEPA, "hidden": (128,), "out": 32, "slices": 64},
        optim={"learning_rate": 0.1, "weight_decay": 1e-4},
    ),
    # eb_jepa's recipe made small, with lightly's views.
    "cifar10_small": Recipe(
        method={**EB_JEPA, "view": replace(views.LIGHTLY_BYOL[0], solarize=0.1), "hidden": (512, 512)},
        optim=solo_larc(learning_rate=0.3, weight_decay=1e-4, warmup_epochs=1.0),
    ),
}
