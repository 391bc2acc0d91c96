"""Learning to count."""

from ssl_jax.augment.view import View
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Layer, Recipe

SMALLEST = 28
ADAM = {"name": "adamw", "learning_rate": 1e-3, "scaling": "none", "weight_decay": 1e-4}


def for_card(card: Card) -> Layer:
    """What is cut off would be missing in the tiles as well: no crops. Flips are not the authors'."""
    if card.weak is None:
        return Layer(optim=ADAM)
    grey = card.channels == 1
    mean, std = (card.weak.mean, card.weak.std) if grey else ((0.473,), (0.251,))  # of grey photographs
    flip = card.weak.flip
    side = card.side // 4 * 4
    view = View(size=side, crop="shift", pad=0, flip=flip, order=("crop", "flip"), mean=mean, std=std)
    return Layer(method={"view": view, "hidden": (512,), "out": 256}, optim=ADAM)


RECIPES = {
    # The paper lowers its rate by a tenth every 10,000 updates; ahmdtaha's falls at the end: here along a cosine.
    "imagenet": Recipe(
        source="rate of the paper; optimiser, batch and epochs of ahmdtaha's port (tf_learning_to_count)",
        epochs=250,
        batch_size=256,
        data={"size": 256},
        optim={"name": "adamw", "learning_rate": 1e-4, "scaling": "none"},
    ),
}

UNPUBLISHED = {
    "photo_tiles": Recipe(method={"hidden": (256,), "out": 64}),
    # The authors have no recipe for CIFAR.
    "cifar10": Recipe(epochs=200, batch_size=256),
}
