"""Triplet loss."""

from ssl_jax.recipes.layer import Layer

ADAM = {"name": "adam", "learning_rate": 1e-3, "scaling": "none"}


def for_card(card):
    """Seen as the data set is augmented for tasks, by Adam; 16 classes with 4 images each where there are as many."""
    return Layer(batch_size=32, method={} if card.weak is None else {"view": card.weak}, optim=ADAM)
