"""I-JEPA."""

from dataclasses import replace

from ssl_jax.augment import recipes as views
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Expected, Layer, Recipe

SMALLEST = 28
COMMON = Layer(model={"name": "vit_micro_gap", "positions": "sincos"})
ADAMW = {
    "name": "adamw",
    "learning_rate": 1e-3,
    "scaling": "none",
    "final": 1e-3,
    "weight_decay": 0.04,
    "weight_decay_final": 0.4,
    "exclude": "1d",
    "warmup_epochs": 1.0,
}
# For small images: a predictor as narrow as the network.
PREDICTOR = {"width": 64, "depth": 2}


def for_card(card: Card) -> Layer:
    """At least 7 x 7 patches, where the authors have 14 x 14 or more, and a small predictor."""
    if card.weak is None:
        return Layer(optim=ADAMW)
    view = replace(views.IJEPA, size=card.side, mean=card.weak.mean, std=card.weak.std)
    return Layer(method={"view": view, **PREDICTOR}, model={"patch": card.patch}, optim=ADAMW)


RECIPES = {
    # But for the warm-up from 2e-4, here 0. The result is that of another group's probe, README of HaiyuWu/visreg.
    "imagenet": Recipe(
        source="facebookresearch/ijepa, configs/in1k_vith14_ep300.yaml",
        expected=(Expected(0.793, "linear"),),
        epochs=300,
        batch_size=2048,
        method={"depth": 12},
        model={"name": "vit_huge_gap", "patch": 14},
        optim={**ADAMW, "warmup_epochs": 40.0},
    ),
}

UNPUBLISHED = {
    # No recipe of the authors: patches of 4 pixels, 64 an image, and a narrower predictor.
    "cifar10": Recipe(
        epochs=400,
        batch_size=256,
        method={"width": 96, "depth": 4},
        model={"name": "vit_tiny_gap"},
        optim={**ADAMW, "learning_rate": 5e-4, "warmup_epochs": 15.0},
    ),
    "cifar10_small": Recipe(batch_size=128),
}
