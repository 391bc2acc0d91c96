"""CPC: `imagenet` is version 2, `imagenet_v1` version 1."""

from dataclasses import replace
from typing import Any

from ssl_jax.augment import recipes as views
from ssl_jax.augment.view import View
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Expected, Layer, Recipe

COMMON = Layer(model={"norm": "layer"})  # v2; BatchNorm would let patches know of each other

# Values in [0, 1]: a patch's own view normalises.
UNIT: dict[str, Any] = {"mean": (0.0,), "std": (1.0,)}
# No recipe of small images is known to learn (Greedy InfoMax has Adam 2e-4 at 32 images for STL-10): a quicker one.
ADAMW = {"name": "adamw", "learning_rate": 1e-3, "scaling": "none", "warmup_epochs": 1.0}


def for_card(card: Card) -> Layer:
    """Patches of about a quarter of the side, half overlapping, with v2's augmentation of each patch."""
    if card.strong is None:
        return Layer(optim=ADAMW)
    size = 4 * round(card.side / 16)
    colours = tuple(step for step in ("jitter", "gray") if step == "jitter" or card.channels == 3)
    # A border would tell a shift.
    view = View(size=card.side, area=(0.6, 1.0), flip=card.strong.flip, order=("crop", "flip"), **UNIT)
    patch = replace(card.strong, size=size - 1, crop="shift", pad=0, order=("crop", "flip", *colours))
    grid = {"view": view, "patch": patch, "patch_size": size, "stride": size // 2}
    return Layer(
        batch_size=64,  # every patch of the batch is a candidate
        method={**grid, "gray": False, "directions": 2, "blocks": 3, "hidden": 64},
        optim=ADAMW,
    )


_colours: dict[str, Any] = {
    "jitter": 0.8,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "gray": 0.2,
}
RECIPES = {
    # 260 pixels hold 6x6 of its patches; its augmentation, optimiser and epochs were not published in full.
    "imagenet": Recipe(
        source="version 2 (arXiv 1905.09272), with a ResNet-50",
        expected=(Expected(0.638, "linear"),),
        epochs=200,
        batch_size=512,
        data={"size": 300},
        method={
            "view": View(size=260, crop="shift", pad=0, flip=0.5, order=("crop", "flip"), **UNIT),
            "patch": View(size=72, crop="shift", pad=0, flip=0.5, order=("crop", "flip", "jitter", "gray"), **_colours),
            "patch_size": 80,
            "stride": 36,
            "gray": False,
            "colour_drop": 1.0,
            "directions": 4,
            "skip": 2,
        },
        optim={"name": "adamw", "learning_rate": 4e-4, "scaling": "none", "schedule": "constant"},
    ),
    # What the method's fields are. This ResNet keeps LayerNorm, without which its values would grow from block to
    # block. The number of epochs is not told.
    "imagenet_v1": Recipe(
        card="imagenet",
        source="version 1 (arXiv 1807.03748, sec. 3.3)",
        expected=(Expected(0.487, "linear", "with a ResNet-101 v2 without norms, up to its third stage"),),
        epochs=200,
        batch_size=512,
        data={"size": 300},
        model={"name": "resnet101"},
        optim={"name": "adam", "learning_rate": 2e-4, "scaling": "none", "schedule": "constant"},
    ),
}

UNPUBLISHED = {
    # 3x3 patches of 4 pixels: from the top row the bottom row, and so in all four directions.
    "digits": Recipe(  # kNN .926 untrained, .942, .957 after 50, 100 epochs
        method={
            "view": replace(views.DIGITS, jitter=0.0, order=("affine", "crop"), **UNIT),
            "patch": replace(views.DIGITS, size=4, crop="shift", pad=0, affine=0.0, order=("crop", "jitter")),
            "patch_size": 4,
            "stride": 2,
            "blocks": 2,
        },
    ),
    # 6x6 patches of 8 pixels.
    "fashion_mnist": Recipe(
        method={
            "view": replace(views.FASHION, area=(0.6, 1.0), jitter=0.0, order=("crop", "flip"), **UNIT),
            "patch": replace(views.FASHION, size=7, crop="shift", pad=0, flip=0.0, order=("crop", "jitter")),
        },
    ),
    # 7x7 patches of 8 pixels. Neither the authors nor solo-learn have a recipe for CIFAR; no number is known.
    "cifar10": Recipe(epochs=300, method={"directions": 4, "blocks": 5, "hidden": 256}),
}
