"""Egomotion."""

from ssl_jax.augment import recipes as views
from ssl_jax.recipes import defaults
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Layer, Recipe

# With SGD at a rate of .1 the answers are at chance after five epochs of 10,000 digits; with this they are not.
ADAM = {"name": "adamw", "learning_rate": 1e-3, "scaling": "none", "weight_decay": 1e-4}


def for_card(card: Card) -> Layer:
    """The paper's motions on grey data; photographs lose as many pixels as a motion brings in from outside."""
    optim = defaults.optimiser(card, ADAM)
    if card.weak is None:
        return Layer(method={"view": views.ROTNET, "shift": 7, "canvas": 224, "window": 160}, optim=optim)
    side, method = card.side, {"view": card.weak, "hidden": (256,)}
    if card.channels == 1:
        canvas = side + 2 * (side // 7)
        method |= {"shift": max(1, side // 9), "canvas": canvas, "window": canvas}
    else:
        method |= {"canvas": side, "window": side // 2}
    return Layer(method=method, optim=optim)


RECIPES = {
    "mnist": Recipe(
        source="sec. 4.1, but for the network: batches of 128, 40,000 updates, tenfold drops each 10,000",
        epochs=85,
        batch_size=128,
        optim={
            "learning_rate": 0.01,
            "scaling": "none",
            "schedule": "steps",
            "milestones": (21, 42, 64),
            "weight_decay": 5e-4,
        },
    ),
}

UNPUBLISHED = {"digits": Recipe(method={"hidden": (128,)})}
