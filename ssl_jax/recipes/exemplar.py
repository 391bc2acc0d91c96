"""Exemplar-CNN."""

from dataclasses import replace
from typing import Any

from ssl_jax.augment import recipes as views
from ssl_jax.methods.pretext.exemplar import INCEPTION, TRANSFORMATIONS
from ssl_jax.recipes import defaults
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Layer, Recipe

# Gray images have no colour components; of HSV they have the value.
GRAY = replace(TRANSFORMATIONS, pca=0.0, order=("affine", "crop", "hsv"))


def for_card(card: Card) -> Layer:
    """Pairs and triplets: few updates are not enough for a softmax over all images."""
    if card.weak is None:
        return defaults.task(card, copies=2, triplet=128)
    look: dict[str, Any] = {"size": card.side, "flip": card.weak.flip, "mean": card.weak.mean, "std": card.weak.std}
    if card.channels == 1:
        view = replace(GRAY, **look, order=("affine", "crop", "flip", "hsv"))
    else:  # a crop has a fifth of the image at least, as is usual at 32 pixels
        view = replace(INCEPTION, **look, crop="torch", area=(0.2, 1.0))
    return defaults.task(card, view=view, copies=2, triplet=128)


RECIPES = {
    "imagenet": Recipe(
        source="Kolesnikov et al. 2019, config/exemplar/imagenet.sh, but for their network, three times as wide",
        epochs=35,
        batch_size=64,
        method={"view": INCEPTION, "copies": 8, "triplet": 1000},
        optim={
            "learning_rate": 0.1,
            "weight_decay": 1e-4,
            "exclude": "1d",  # models/resnet.py decays kernels alone
            "schedule": "steps",
            "milestones": (15, 25),
            "warmup_epochs": 5.0,
        },
    ),
}

UNPUBLISHED = {
    "digits": Recipe(
        batch_size=64,  # with dropout it takes many updates: kNN .946 untrained, .984, .989 after 50, 100 epochs
        method={
            "view": replace(GRAY, size=8, translate=0.15, mean=(0.3,), std=(0.37,)),
            "copies": 1,
            "triplet": 0,
        },
        optim={"learning_rate": 0.3, "weight_decay": 1e-4},
    ),
    "photo_tiles": Recipe(optim={"learning_rate": 0.1}),
    # A softmax over 60,000 classes would be most of the work: triplets.
    "fashion_mnist": Recipe(method={"copies": 4}, optim={"learning_rate": 0.06, "weight_decay": 5e-4}),
    # The authors' softmax and transformations, on CIFAR and with a ResNet-18. Their net of three convolutions has
    # 16,000 patches of STL-10 for classes and reaches 72.8 % there; no number is known for this one. A ResNet with
    # BatchNorm takes SGD and a cosine; their rates and decays of each layer (.01 in five steps, .004) are its own.
    "cifar10": Recipe(
        epochs=200,
        batch_size=128,
        method={
            "view": replace(TRANSFORMATIONS, mean=views.CIFAR10_MEAN, std=views.CIFAR10_STD),
            "copies": 1,
            "triplet": 0,
        },
        optim={"learning_rate": 0.06, "weight_decay": 5e-4},
    ),
    # 780 updates are too few for a softmax over 10,000 classes: the default's pairs and triplets.
    "cifar10_small": Recipe(),
}
