"""Supervised multi-task learning on rendered scenes, which have all the labels."""

from ssl_jax.recipes.cards import CARDS
from ssl_jax.recipes.layer import Recipe

UNPUBLISHED = {
    "scenes": Recipe(
        method={"view": CARDS["scenes"].weak},
        optim={"name": "adamw", "learning_rate": 2e-3, "scaling": "none", "weight_decay": 1e-4},
    ),
}
