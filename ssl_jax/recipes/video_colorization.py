"""Video colorization."""

from ssl_jax.recipes.layer import Recipe

ADAM = {"name": "adamw", "learning_rate": 1e-3, "scaling": "none", "weight_decay": 1e-4}

UNPUBLISHED = {
    "photo_pans": Recipe(batch_size=32, method={"stride": 2, "out": 32}, optim=ADAM),
    "davis": Recipe(batch_size=16, method={"stride": 2}, optim=ADAM, run={"eval_epochs": 0.0}),
}
