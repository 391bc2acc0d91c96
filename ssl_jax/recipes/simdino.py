"""SimDINO."""

from functools import partial

from ssl_jax.recipes import teachers
from ssl_jax.recipes.layer import Expected, Layer, Recipe

SMALLEST = teachers.SMALLEST
COMMON = Layer(model={"name": "vit_micro"})
for_card = partial(teachers.for_card, tau=0.99)

RECIPES = {
    "imagenet": Recipe(
        source="README of RobinWu218/SimDINO: ViT-B/16, 100 epochs; the optimiser is DINO's",
        expected=(Expected(0.773, "linear"), Expected(0.749, "knn")),
        epochs=100,
        batch_size=1024,
        model={"name": "vit_base"},
        optim={
            "name": "adamw",
            "learning_rate": 5e-4,
            "final": 1e-3,
            "weight_decay": 0.04,
            "weight_decay_final": 0.4,
            "exclude": "1d",
            "warmup_epochs": 10.0,
            "clip_each": 3.0,
        },
    ),
}

UNPUBLISHED = {
    "photo_tiles": Recipe(method={"locals": 2, "bottleneck": 32}, model={"patch": 8}),
}
