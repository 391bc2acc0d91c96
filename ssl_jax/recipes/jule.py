"""JULE."""

from ssl_jax.augment.view import View, evaluation
from ssl_jax.recipes import base, defaults
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Layer, Recipe


def for_card(card: Card) -> Layer:
    """Images as they are, five periods, and batches of which all triplets fit in memory."""
    fields = {"period": max(1, (card.epochs or base.fields().epochs) // 5)}
    if card.weak is not None:
        fields["view"] = evaluation(card.weak, 1.0)
    return defaults.task(card, **fields).but(batch_size=128)


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
