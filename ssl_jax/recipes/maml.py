"""MAML."""

from ssl_jax.recipes.cards import CARDS
from ssl_jax.recipes.layer import Layer, Recipe

RECIPES = {
    # 32 tasks an update, one inner step; 60,000 updates on all of Omniglot.
    "omniglot": Recipe(
        source="cbfinn/maml, README; rates for a mean over images: learn2learn, examples/vision/maml_omniglot.py",
        epochs=40,
        batch_size=32,
        method={"view": CARDS["omniglot"].weak, "ways": 5, "shots": 1, "queries": 1},
        optim={"name": "adam", "learning_rate": 3e-3, "scaling": "none", "schedule": "constant"},
    ),
}

# Measured after as many steps as were trained for: after three of this size answers get worse where updates were few,
# and with running statistics they fall to chance.
COMMON = Layer(batch_size=8, method={"ways": 5, "shots": 5, "queries": 5, "test_steps": 1})
ADAM = {"name": "adam", "learning_rate": 3e-3, "scaling": "none"}


def for_card(card):
    """Tasks of five classes, by Adam, seen as the data set is augmented for tasks."""
    return Layer(method={} if card.weak is None else {"view": card.weak}, optim=ADAM)


UNPUBLISHED = {
    "digits": Recipe(batch_size=8, method={"shots": 1, "queries": 3}),
    # 660 updates.
    "omniglot_small": Recipe(
        epochs=30,
        batch_size=16,
        method={"ways": 5, "shots": 1, "queries": 5},
        optim=ADAM,
        run={"eval_epochs": 0.0},
    ),
}
