"""Jigsaw puzzles."""

from dataclasses import replace
from typing import Any

from ssl_jax.augment.view import View
from ssl_jax.methods.pretext.jigsaw import VIEW
from ssl_jax.recipes import defaults
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Expected, Layer, Recipe

SMALLEST = 28


def _view(size: int, **changes: Any) -> View:
    view = View(size=size, area=(0.6, 1.0), flip=0.5, order=("crop", "flip"), mean=VIEW.mean, std=VIEW.std)
    return replace(view, **changes)


def for_card(card: Card) -> Layer:
    """Enlarges images by half, and cuts tiles of a quarter of that side.

    A ResNet-18 makes 2 x 2 vectors of 12 pixels. 8 orders an image (Kolesnikov et al. 2019) cost next to nothing.
    """
    if card.weak is None:
        return defaults.task(card)
    side = card.side * 3 // 2
    view, aberration = _view(side, flip=card.weak.flip), 0
    if card.channels == 3:
        view, aberration = replace(view, gray=0.3, order=("crop", "flip", "gray")), max(1, side // 100)
    cut: dict[str, Any] = {"tile": side // 4, "aberration": aberration, "orders": 8}
    return defaults.task(card, view=view, tile_width=128, hidden=(512,), **cut)


RECIPES = {
    # But for tiles that are normalised one by one and whose colours are cut apart, as in the paper, and the warm-up
    # from a quarter of the rate, here from 0.
    "imagenet": Recipe(
        source="VISSL's jigsaw_8gpu_resnet.yaml, a ResNet-50",
        expected=(Expected(0.467, "linear"),),
        epochs=105,
        batch_size=256,
        data={"size": 256},
        method={
            "view": replace(VIEW, flip=0.5, gray=0.66, order=("flip", "crop", "gray")),
            "permutations": 2000,
            "tile_width": 1000,
            "tile_norm": True,
            "hidden": (),
        },
        optim={
            "learning_rate": 0.1,
            "weight_decay": 1e-4,
            "exclude": "norm",
            "schedule": "steps",
            "milestones": (30, 60, 90, 100),
            "warmup_epochs": 5.0,
        },
    ),
}

UNPUBLISHED = {
    # Two images, cut up in the test suite: no grey ones, as for larger data.
    "photo_tiles": Recipe(
        method={
            "view": _view(32),
            "tile": 8,
            "permutations": 24,
            "orders": 4,
            "tile_width": 64,
            "hidden": (),
        },
        optim={"learning_rate": 0.3, "weight_decay": 1e-4},
    ),
    "fashion_mnist": Recipe(method={"tile": 11}),
    # The authors have no recipe for CIFAR.
    "cifar10": Recipe(epochs=200, batch_size=128),
}
