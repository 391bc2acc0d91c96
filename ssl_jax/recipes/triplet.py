"""Triplet loss."""

from ssl_jax.recipes.layer import Layer, Recipe

ADAM = {"name": "adam", "learning_rate": 1e-3, "scaling": "none"}


def for_card(card):
    """Seen as the data set is augmented for tasks, by Adam; 16 classes with 4 images each where there are as many."""
    return Layer(batch_size=32, method={} if card.weak is None else {"view": card.weak}, optim=ADAM)


# 32 characters with 4 drawings each.
OMNIGLOT = Recipe(epochs=10, batch_size=128, run={"eval_epochs": 0.0})
# 16 objects with 4 views each: the same for all losses, which are compared there.
COIL = Recipe(batch_size=64, optim=ADAM)

UNPUBLISHED = {"omniglot_small": OMNIGLOT, "coil100_unseen": COIL}
