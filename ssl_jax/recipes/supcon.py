"""Supervised contrastive learning."""

import dataclasses

from ssl_jax.augment import recipes as views
from ssl_jax.recipes import triplet
from ssl_jax.recipes.cards import CARDS
from ssl_jax.recipes.defaults import comparing
from ssl_jax.recipes.layer import Expected, Layer, Recipe

RECIPES = {
    "cifar10": Recipe(
        source="README of HobbitLong/SupContrast: ResNet-50, N = 1024, 1000 epochs",
        expected=(Expected(0.96, "linear"),),
        epochs=1000,
        batch_size=1024,
        model={"name": "resnet50"},
        method={"view": dataclasses.replace(views.MOCO_CIFAR, area=(0.2, 1.0))},
        optim={
            "learning_rate": 0.5,
            "scaling": "none",
            "weight_decay": 1e-4,
            "warmup_epochs": 10.0,
            "final": 1e-3,
            "per_epoch": True,
        },
    ),
}


def for_card(card):
    """Views as of methods that compare them, by the card's SGD."""
    return comparing(card, **({} if card.strong is None else {"view": card.strong}))


SMALL = Layer(method={"hidden": 128})

# One view of each of 4 images of a class, as the other losses of metric learning there.
_CLASSES = {"copies": 1, "images_per_class": 4, "hidden": 128}
UNPUBLISHED = {
    "digits": Recipe(method={"out": 64}),
    **{
        name: dataclasses.replace(recipe, optim=triplet.ADAM, method=_CLASSES | triplet.for_card(CARDS[name]).method)
        for name, recipe in triplet.UNPUBLISHED.items()
    },
}
