"""Watching objects move."""

from ssl_jax.recipes.layer import Recipe

ADAM = {"name": "adamw", "learning_rate": 1e-3, "scaling": "none", "weight_decay": 1e-4}

UNPUBLISHED = {
    "photo_movers": Recipe(batch_size=32, method={"stride": 2, "side": 16, "reach": 3, "threshold": 0.04}, optim=ADAM),
    "davis": Recipe(batch_size=16, method={"side": 16, "stride": 2, "reach": 6}, optim=ADAM, run={"eval_epochs": 0.0}),
}
