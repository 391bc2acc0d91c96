"""DeepCluster."""

from ssl_jax.recipes import defaults
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Layer, Recipe

COMMON = Layer(groups={"classifier": {}})


def for_card(card: Card) -> Layer:
    """A projector as narrow as the features of small networks, in colour; an epoch has few updates."""
    if card.strong is None:
        return defaults.comparing(card)
    small = {"sobel": False, "hidden": (), "out": 128, "pca": 32, "clusters": 128, "reassign": 4}
    return defaults.comparing(card, view=card.strong, **small)


RECIPES = {
    # The authors' network is an AlexNet, whose conv5 gives 38.2 % with a linear classifier.
    "imagenet": Recipe(
        source="main.sh and main.py of facebookresearch/deepcluster, but for the network",
        epochs=200,
        batch_size=256,
        optim={
            "learning_rate": 0.05,
            "scaling": "none",
            "schedule": "constant",
            "weight_decay": 1e-5,
        },
        groups={"classifier": {"momentum": 0.0}},
    ),
}

UNPUBLISHED = {"digits": Recipe(method={"out": 64, "pca": 16, "clusters": 64, "reassign": 10})}
