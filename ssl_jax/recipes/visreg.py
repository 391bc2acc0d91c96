"""VISReg."""

from dataclasses import replace
from typing import Any

from ssl_jax.augment import recipes as views
from ssl_jax.recipes.layer import Expected, Layer, Recipe, solo_larc

ADAMW: dict[str, Any] = {
    "name": "adamw",
    "scaling": "none",
    "weight_decay": 0.05,
    "exclude": "1d",
    "warmup_epochs": 5.0,
    "final": 1e-3,
    "clip": 1.0,
}
TWO: dict[str, Any] = {"globals": 2, "locals": 0}

RECIPES = {
    "imagenet": Recipe(
        source="README of HaiyuWu/visreg: ViT-B/16, 400 epochs; default.yaml has 100",
        expected=(Expected(0.757, "linear"),),
        epochs=400,
        batch_size=1024,
        model={"name": "vit_base"},
        optim={**ADAMW, "learning_rate": 9e-4},
    ),
    "imagenette": Recipe(
        source="train_inet10_toy.py of HaiyuWu/visreg: ViT-S/8, 800 epochs; result of stable-pretraining",
        expected=(Expected(0.902, "linear", "of a ViT-S/16 after 200 epochs"),),
        epochs=800,
        batch_size=64,
        method={
            "view": views.VISREG_IMAGENETTE,
            "locals": 0,
            "out": 128,
            "projector_gelu": False,
            "weight": 0.6,
        },
        model={"name": "vit_small", "patch": 8},
        optim={**ADAMW, "learning_rate": 1e-3},
    ),
}

SMALL = Layer(
    method={**TWO, "hidden": (256,), "out": 64, "slices": 256, "weight": 0.6},
    optim=solo_larc(learning_rate=0.3, weight_decay=1e-4, warmup_epochs=1.0),
)

UNPUBLISHED = {
    "digits": Recipe(
        method={**TWO, "hidden": (128,), "out": 32, "slices": 64, "weight": 0.6},
        optim={"learning_rate": 0.1, "weight_decay": 1e-4},
    ),
    # No recipe of the authors: solo-learn's VICReg, and the weight of their example.
    "cifar10": Recipe(
        epochs=300,
        batch_size=256,
        method={**TWO, "view": replace(views.SOLO_VICREG, blur=0.0), "out": 128, "slices": 1024, "weight": 0.6},
        optim=solo_larc(learning_rate=0.3, weight_decay=1e-4),
    ),
    "cifar10_small": Recipe(
        method={
            **TWO,
            "view": replace(views.LIGHTLY_BYOL[0], solarize=0.1),
            "hidden": (512, 512),
            "out": 128,
            "slices": 256,
            "weight": 0.6,
        },
        optim=solo_larc(learning_rate=0.3, weight_decay=1e-4, warmup_epochs=1.0),
    ),
}
