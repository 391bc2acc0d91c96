"""Pi-model."""

from ssl_jax.recipes import fixmatch
from ssl_jax.recipes.cards import CARDS
from ssl_jax.recipes.layer import Recipe

RECIPES = {
    # 250 labels; 64 labelled images and as many others.
    "cifar10": Recipe(
        source="google-research/fixmatch, pi_model.py, but for the network and the shape of the ramp",
        epochs=1342,
        batch_size=128,
        method={"view": CARDS["cifar10"].weak, "stop": True},
        optim=fixmatch.SGD,
    ),
}

UNPUBLISHED = {"digits": Recipe(method={"labels_per_class": 10})}
