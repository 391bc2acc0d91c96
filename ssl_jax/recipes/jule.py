"""JULE."""

from ssl_jax.augment.view import View, evaluation
from ssl_jax.recipes import defaults
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Layer, Recipe


def for_card(card: Card) -> Layer:
    """Images as they are."""
    if card.weak is None:
        return defaults.task(card)
    return defaults.task(card, view=evaluation(card.weak, 1.0))


RECIPES = {
    # The authors have no bound on epochs: it ends when as many clusters are left as there are classes.
    "usps": Recipe(
        source="train.lua of jwyang/JULE.torch with eta .9, but for the network and the slow fall of the rate",
        epochs=80,
        batch_size=100,
        method={"view": View(size=16, crop="centre", order=("crop",), mean=(0.2545,), std=(0.3846,))},
        optim={
            "learning_rate": 0.01,
            "scaling": "none",
            "schedule": "constant",
            "weight_decay": 5e-5,
        },
    ),
}
