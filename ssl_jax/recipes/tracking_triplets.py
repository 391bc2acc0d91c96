"""Tracking triplets."""

from ssl_jax.recipes.layer import Recipe

UNPUBLISHED = {
    "photo_pans": Recipe(batch_size=32, method={"stride": 8, "out": 64, "random_epochs": 3}),
    "davis_tracks": Recipe(
        batch_size=32,
        method={"stride": 15, "out": 64, "random_epochs": 5},
        optim={"name": "adamw", "learning_rate": 1e-3, "scaling": "none", "weight_decay": 0.05},
        run={"eval_epochs": 0.0},
    ),
}
