"""Prototypical networks."""

from ssl_jax.recipes.cards import CARDS
from ssl_jax.recipes.layer import Layer, Recipe

RECIPES = {
    # 60 classes with 5 + 5 images, one episode an update; the rate halves after every 2,000 episodes, which are 111
    # epochs of the small sets. Of all alphabets the authors have .988 with one shot and .997 with five.
    "omniglot": Recipe(
        source="jakesnell/prototypical-networks, scripts/train/few_shot/run_train.py",
        epochs=222,
        batch_size=1,
        method={"view": CARDS["omniglot"].weak, "ways": 60, "shots": 5, "queries": 5},
        optim={
            "name": "adam",
            "learning_rate": 1e-3,
            "scaling": "none",
            "schedule": "steps",
            "milestones": (111,),
            "factor": 0.5,
        },
    ),
}

COMMON = Layer(batch_size=4, method={"ways": 5, "shots": 5, "queries": 5})
ADAM = {"name": "adam", "learning_rate": 1e-3, "scaling": "none"}


def for_card(card):
    """Episodes of five classes, by Adam, seen as the data set is augmented for tasks."""
    return Layer(method={} if card.weak is None else {"view": card.weak}, optim=ADAM)


UNPUBLISHED = {
    "digits": Recipe(batch_size=8, method={"shots": 1, "queries": 3}),
    # 1,800 episodes of 360 images, 30 an epoch: two minutes on a CPU core. After a third of them accuracy is lower by
    # 2 points (one shot) and 1 (five), and with 30 classes an episode by 1.6 and .5 more.
    "omniglot_small": Recipe(
        epochs=60,
        batch_size=1,
        method={"ways": 60, "shots": 1, "queries": 5},
        optim={**ADAM, "schedule": "steps", "milestones": (30, 45), "factor": 0.5},
        run={"eval_epochs": 0.0},
    ),
}
