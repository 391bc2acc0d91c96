"""BiGAN."""

from dataclasses import replace

from ssl_jax.methods.pretext.bigan import CROP
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Layer, Recipe

SMALLEST = 8
# The authors' Adam for all three (train_gan.py); weight decay 2.5e-5.
ADAM = {
    "name": "adamw",
    "learning_rate": 2e-4,
    "scaling": "none",
    "schedule": "constant",
    "b1": 0.5,
    "weight_decay": 2.5e-5,
}
COMMON = Layer(groups={"discriminator": {}})


def for_card(card: Card) -> Layer:
    """Networks for small images."""
    if card.weak is None:
        return Layer(optim=ADAM)
    view = replace(CROP, size=card.side, flip=card.weak.flip, crop="centre", order=("crop", "flip"))
    layers = 2 if card.side < 32 else 3
    widths = tuple(64 * 2**i for i in range(layers))
    return Layer(method={"view": view, "code": 50, "widths": widths[::-1], "judge": widths}, optim=ADAM)


RECIPES = {
    "imagenet": Recipe(
        source="authors' code (jeffdonahue/bigan, train_gan.py) for 64 pixels, but for the encoder's network",
        epochs=100,
        batch_size=128,
        data={"size": 72},
        optim=ADAM,
    ),
}

UNPUBLISHED = {"digits": Recipe(method={"widths": (32, 16), "judge": (16, 32)}, batch_size=128)}
