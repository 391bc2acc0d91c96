"""SimDINOv2."""

from functools import partial

from ssl_jax.recipes import teachers
from ssl_jax.recipes.layer import Expected, Layer, Recipe

SMALLEST = teachers.SMALLEST
COMMON = Layer(model={"name": "vit_micro"})
for_card = partial(teachers.for_card, tau=0.99)

RECIPES = {
    "imagenet": Recipe(
        source="README of RobinWu218/SimDINO: ViT-B/16, 100 epochs of 1,250 updates; the optimiser is DINOv2's",
        expected=(Expected(0.797, "linear"), Expected(0.781, "knn")),
        epochs=200,
        batch_size=2048,
        model={"name": "vit_base", "layer_scale": 0.1},
        optim=teachers.DINOV2_ADAMW,
    ),
}

UNPUBLISHED = {
    "photo_tiles": Recipe(method={"locals": 2}, model={"patch": 8}),
}
