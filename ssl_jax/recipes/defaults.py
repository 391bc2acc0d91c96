"""The settings of a method on a data set where nobody published any: what its family has in common."""

import dataclasses
from typing import Any

from ssl_jax.methods import build
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Fields, Layer

# SGD of tasks whose answer is known: classes, rotations, positions.
TASK_SGD: Fields = {"learning_rate": 0.1, "weight_decay": 5e-4}


def default(method: str, card: Card) -> Layer:
    """The family's settings for a card.

    Methods that compare views of an image (the family joint, and others of several views) take strong augmentation,
    all others weak. Where the card has an optimiser of its own, all methods have it.
    """
    names = {f.name for f in dataclasses.fields(build.find(method))}
    several = method in build.families()["joint"] or {"view1", "view2"} <= names
    view = card.strong if several else card.weak
    changes: dict[str, Any] = {name: view for name in ("view", "view1", "view2") if name in names and view is not None}
    return Layer(method=changes, optim=optimiser(card, card.sgd if several else TASK_SGD))


def optimiser(card: Card, family: Fields) -> Fields:
    """The card's optimiser, if it has one of its own, or the family's."""
    return family if card.optim is None else card.optim


def task(card: Card, **method: Any) -> Layer:
    """A layer of a pretext task with these fields of the method."""
    return Layer(method=method, optim=optimiser(card, TASK_SGD))


def comparing(card: Card, **method: Any) -> Layer:
    """A layer of a method of the joint family with these fields."""
    return Layer(method=method, optim=optimiser(card, card.sgd))
