"""DINO."""

from dataclasses import replace
from typing import Any

from ssl_jax.augment import recipes as views
from ssl_jax.recipes import defaults
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Expected, Layer, Recipe, solo_larc

COMMON = Layer(groups={"last_layer": {"frozen_epochs": 1.0}})  # epochs for which the last layer does not move

_crop: dict[str, Any] = {"area": (0.4, 1.0), "interpolation": "bicubic"}
# 81.3 with 512 images, 84.0 with 128. lightly's teacher moves before the forward pass, which comes to the same; the
# teacher's head starts from other weights, here from the student's. The last layer is never at rest. It is the student
# that is evaluated.
LIGHTLY = Recipe(
    source="lightly's CIFAR-10 benchmark",
    expected=(Expected(0.813, "knn"), Expected(0.840, "knn", "with N = 128")),
    method={
        "global1": replace(views.LIGHTLY_BYOL[0], **_crop),
        "global2": replace(views.LIGHTLY_BYOL[1], **_crop),
        "locals": 0,
        "head_norm": True,
        "dense_std": 0.0,
        "hidden": (2048,),
        "out": 2048,
        "tau": 0.99,
        "tau_schedule": "constant",
        "concat_views": False,
        "evaluate_teacher": False,
    },
    groups={"last_layer": {"frozen_epochs": 0.0}},
)


def for_card(card: Card) -> Layer:
    if card.strong is None:
        return defaults.comparing(card)
    head = {"head_norm": True, "dense_std": 0.0, "hidden": (512,), "bottleneck": 128, "out": 1024}
    return defaults.comparing(card, global1=card.strong, global2=card.strong, locals=0, tau=0.99, **head)


RECIPES = {
    # But for the stem's padding of 2 and the warm-up from 3e-5, which here are 1 and 0. The teacher's temperature is
    # warmed up, as was solo-learn's default before its commit 6f228fd, and is not now.
    "cifar10": Recipe(
        source="solo-learn; the authors have no CIFAR recipe",
        expected=(Expected(0.895, "linear", "after 1000 epochs"),),
        batch_size=256,
        method={
            "global1": views.SOLO_ASYMMETRIC[0],
            "global2": views.SOLO_ASYMMETRIC[1],
            "locals": 0,
            "out": 4096,
            "tau": 0.9995,
            "teacher_temp": 0.07,
            "warmup_teacher_epochs": 50,
            "concat_views": False,
        },
        optim=solo_larc(learning_rate=0.3, weight_decay=1e-6),
    ),
    "cifar10_lightly": LIGHTLY,
    "imagenet": Recipe(
        source="README of facebookresearch/dino: ViT-S/16, 8 GPUs of 64 images, 100 epochs",
        expected=(Expected(0.740, "linear"), Expected(0.693, "knn")),
        epochs=100,
        batch_size=512,
        model={"name": "vit_small"},
        optim={
            "name": "adamw",
            "learning_rate": 5e-4,
            "final": 1e-3,  # 1e-6 in the end
            "weight_decay": 0.04,
            "weight_decay_final": 0.4,
            "exclude": "1d",
            "warmup_epochs": 10.0,
            "clip_each": 3.0,
        },
    ),
}

UNPUBLISHED = {
    "digits": Recipe(
        method={
            "local": views.DIGITS,
            "locals": 2,
            "hidden": (256,),
            "bottleneck": 64,
            "out": 128,
            "tau": 0.97,
        },
        optim={"learning_rate": 0.1, "scaling": "none", "weight_decay": 1e-4},
    ),
    "fashion_mnist": Recipe(method={"local": replace(views.FASHION, size=16, area=(0.1, 0.4)), "locals": 2}),
    # lightly's, the head at a quarter.
    "cifar10_small": LIGHTLY.but(method={"hidden": (512,), "bottleneck": 64, "out": 512}),
}
