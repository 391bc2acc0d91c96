"""PIRL."""

from dataclasses import replace

from ssl_jax.augment import recipes as views
from ssl_jax.augment.view import View
from ssl_jax.recipes import defaults
from ssl_jax.recipes.cards import SMALL_SGD, Card
from ssl_jax.recipes.layer import Expected, Fields, Layer, Recipe

CROP = View(area=(0.6, 1.0), order=("crop",))


def jigsaw(view: View, large: View, cell: int, patch: int, grid: int = 3) -> Fields:
    """The views: an image, and a grid of cells out of each of which a patch with the image's colours is cut.

    Args:
      view: of the image.
      large: geometry of the grid.
      cell: side of a cell, pixels.
      patch: side of what is cut out of it, pixels.
      grid: cells along a side.
    """
    large = replace(large, size=cell * grid, pillow=view.pillow, mean=(0.0,), std=(1.0,))
    order = tuple(step for step in view.order if step != "affine")
    small = replace(view, size=patch, crop="shift", pad=0, affine=0.0, order=order)
    return {"grid": grid, "view": view, "large": large, "patch": small}


def for_card(card: Card) -> Layer:
    cell = card.side // 3
    geometry = jigsaw(card.strong, CROP, cell, cell - 2) if card.strong else {}
    # NCE wants more updates an epoch than small data have.
    return defaults.comparing(card, criterion="cross_entropy", **geometry)


RECIPES = {
    "imagenet": Recipe(
        source="VISSL's config; the paper has 63.6",
        expected=(Expected(0.643, "linear"), Expected(0.629, "linear", "after 200 epochs")),
        epochs=800,
        batch_size=1024,
        optim={"learning_rate": 0.03, "weight_decay": 1e-4, "exclude": "1d", "per_epoch": True, "final": 0.001},
    ),
}

_turned = replace(views.DIGITS, jitter=0.0, order=("affine", "crop"))
UNPUBLISHED = {
    # A ninth of an 8x8 digit shows nothing: four quarters of 4 pixels, enlarged twice, of which 3 are seen.
    "digits": Recipe(
        batch_size=64,  # kNN .957 untrained, .982 after 40 epochs
        method={
            **jigsaw(views.DIGITS, _turned, cell=8, patch=6, grid=2),
            "out": 64,
            "noise": 256,
            "temperature": 0.2,
        },
    ),
    "fashion_mnist": Recipe(method={"noise": 1024}, optim={"learning_rate": 0.06, "weight_decay": 5e-4}),
    # Neither the authors nor solo-learn have a recipe for CIFAR: NPID's noise and SimCLR's colours. No number.
    "cifar10": Recipe(
        epochs=200,
        batch_size=128,
        method={**jigsaw(views.SIMCLR_CIFAR, CROP, cell=10, patch=8), "noise": 4096},
        optim={"learning_rate": 0.06, "weight_decay": 5e-4},
    ),
    # As NPID's.
    "cifar10_small": Recipe(
        method={"noise": 4096, "momentum": 0.0},
        optim={**SMALL_SGD, "learning_rate": 0.06},
    ),
}
