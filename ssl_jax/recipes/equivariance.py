"""Equivariance."""

from ssl_jax.recipes import defaults
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Layer, Recipe


def for_card(card: Card) -> Layer:
    """The card's weak view; grey data have a black ground."""
    view = {} if card.weak is None else {"view": card.weak}
    return defaults.task(card, **view, **({"fill": 0.0} if card.channels == 1 else {}))


UNPUBLISHED = {"digits": Recipe(method={"out": 32})}
