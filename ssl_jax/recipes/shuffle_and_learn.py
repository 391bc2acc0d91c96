"""Shuffle and learn."""

from ssl_jax.recipes.layer import Recipe

UNPUBLISHED = {
    "photo_pans": Recipe(batch_size=32, method={"stride": 4, "hidden": (128,)}),
    "davis": Recipe(
        batch_size=32,
        method={"stride": 4, "hidden": (256,)},
        optim={"name": "adamw", "learning_rate": 1e-3, "scaling": "none", "weight_decay": 0.05},
    ),
}
