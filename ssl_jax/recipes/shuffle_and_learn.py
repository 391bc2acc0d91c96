"""Shuffle and learn."""

from ssl_jax.recipes.layer import Recipe

UNPUBLISHED = {
    "photo_pans": Recipe(batch_size=32, method={"stride": 4, "hidden": (128,)}),
    # Frames that are two apart. A head that reads the features themselves, of 256 hidden units, knows the order of 89 %
    # of the tuples of the ten training videos and of 52 % of those of the other five.
    "davis": Recipe(
        batch_size=32,
        method={"stride": 2, "hidden": (32,), "fusion": "differences"},
        optim={"name": "adamw", "learning_rate": 1e-3, "scaling": "none", "weight_decay": 0.05},
        run={"eval_epochs": 0.0},
    ),
}
