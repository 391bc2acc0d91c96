"""Colorization."""

from dataclasses import replace

from ssl_jax.methods.pretext.colorization import CROP
from ssl_jax.recipes.cards import CARDS, Card
from ssl_jax.recipes.layer import Layer, Recipe

SMALLEST = 28
ADAMW = {"name": "adamw", "learning_rate": 1e-3, "scaling": "none", "weight_decay": 1e-3, "warmup_epochs": 0.25}


def for_card(card: Card) -> Layer:
    """Of 32 pixels: 8x8 targets, one step from a ResNet's map. Resized crops have no border."""
    if card.weak is None:
        return Layer(optim=ADAMW)
    view = replace(CROP, size=card.side, flip=card.weak.flip, crop="torch", area=(0.5, 1.0))
    return Layer(method={"view": view, "widths": (64,)}, optim=ADAMW)


RECIPES = {
    # About 480,000 updates of 40 images are 15 epochs. Their decay is coupled.
    "imagenet": Recipe(
        source="authors' code (richzhang/colorization, caffe branch)",
        epochs=15,
        batch_size=40,
        data={"size": 256},
        optim={
            "name": "adam",
            "learning_rate": 3e-5,
            "scaling": "none",
            "schedule": "steps",
            "milestones": (7, 14),
            "b2": 0.99,
            "weight_decay": 1e-3,
        },
    ),
}

# No recipe of the authors for 32 pixels.
UNPUBLISHED = {
    "cifar10": Recipe(epochs=200, method={"widths": (256,)}),
    "camvid": Recipe(method={"view": CARDS["camvid"].weak}),
}
