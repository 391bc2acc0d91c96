"""Autoencoder. No recipe of its authors is known."""

from dataclasses import replace

from ssl_jax.augment import recipes as views
from ssl_jax.methods.pretext.autoencoder import CROP
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Layer, Recipe

# Adam's first updates are of full size, however small the gradient: a short warm-up.
ADAMW = {"name": "adamw", "learning_rate": 1e-3, "scaling": "none", "weight_decay": 1e-4, "warmup_epochs": 0.25}


def for_card(card: Card) -> Layer:
    if card.strong is None:
        return Layer(optim=ADAMW)
    # What is to be decoded keeps its brightness and colours.
    view = replace(CROP, size=card.side, flip=card.strong.flip, mean=card.strong.mean, std=card.strong.std)
    if card.channels == 1:
        view = replace(card.strong, jitter=0.0)
    return Layer(method={"view": view, "widths": (64, 32, 16)}, optim=ADAMW)


UNPUBLISHED = {
    "digits": Recipe(method={"widths": (64, 32)}),
    "cifar10": Recipe(
        epochs=200,
        batch_size=256,
        method={
            "view": replace(CROP, size=32, mean=views.CIFAR10_MEAN, std=views.CIFAR10_STD),
            "widths": (256, 128, 64),
        },
    ),
    "imagenet": Recipe(epochs=100, batch_size=256, optim={**ADAMW, "warmup_epochs": 5.0}),
}
