"""NPID."""

from ssl_jax.augment import recipes as views
from ssl_jax.recipes.cards import SMALL_SGD
from ssl_jax.recipes.layer import Expected, Layer, Recipe

# The authors' SGD: rates are absolute, drops by ten, weight decay on all parameters.
SGD = {"learning_rate": 0.03, "scaling": "none", "schedule": "steps"}

RECIPES = {
    "cifar10": Recipe(
        source="cifar.py of zhirongw/lemniscate.pytorch with its full softmax: ResNet-18, 200 epochs",
        expected=(Expected(0.808, "1nn"),),
        epochs=200,
        batch_size=128,
        method={"view": views.NPID_CIFAR, "noise": 0, "temperature": 0.1},
        optim={**SGD, "weight_decay": 5e-4, "milestones": (120, 160)},
    ),
    "imagenet": Recipe(
        source="main.py of zhirongw/lemniscate.pytorch: ResNet-50, 200 epochs",
        expected=(Expected(0.540, "linear"), Expected(0.468, "1nn")),
        epochs=200,
        batch_size=256,
        optim={**SGD, "weight_decay": 1e-4, "milestones": (120, 160)},
    ),
}

SMALL = Layer(
    method={"noise": 0, "temperature": 0.1},
    optim={"learning_rate": 0.06, "weight_decay": 5e-4},
)

UNPUBLISHED = {
    # NCE collapses here: 5 updates an epoch are too few for a Z that stays.
    "digits": Recipe(
        batch_size=64,  # kNN .957 untrained, .989, .989 after 50, 100 epochs
        method={"out": 64, "temperature": 0.2},
        optim={"learning_rate": 0.3, "weight_decay": 1e-4},
    ),
    # A row of the bank is visited 5 to 20 times in all: it takes the new vector, not its mean with a random start.
    "cifar10_small": Recipe(
        method={"momentum": 0.0},
        optim={**SMALL_SGD, "learning_rate": 0.06},  # the authors' .03 for 128 images
    ),
}
