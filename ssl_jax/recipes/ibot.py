"""iBOT."""

from functools import partial

from ssl_jax.recipes import teachers
from ssl_jax.recipes.layer import Expected, Layer, Recipe

SMALLEST = teachers.SMALLEST
COMMON = Layer(model={"name": "vit_micro"}, groups={"last_layer": {"frozen_epochs": 1.0}})
for_card = partial(teachers.for_card, out=1024, teacher_temp=0.04, patch_temp=0.04, tau=0.99)

RECIPES = {
    "imagenet": Recipe(
        source="README of bytedance/ibot: ViT-S/16, 16 GPUs of 64 images, 800 epochs",
        expected=(Expected(0.779, "linear"), Expected(0.752, "knn"), Expected(0.823, "fine_tune")),
        epochs=800,
        batch_size=1024,
        model={"name": "vit_small"},
        optim={
            "name": "adamw",
            "learning_rate": 5e-4,
            "final": 5e-4,  # 1e-6 in the end
            "weight_decay": 0.04,
            "weight_decay_final": 0.4,
            "exclude": "1d",
            "warmup_epochs": 10.0,
            "clip_each": 3.0,
        },
    ),
}

UNPUBLISHED = {
    # Few updates: short warm-up, no rest of the last layer, a teacher that follows soon, few prototypes.
    "photo_tiles": Recipe(
        method={"locals": 2, "out": 64, "tau": 0.95},
        model={"patch": 8},
        optim={**teachers.ADAMW, "learning_rate": 3e-3, "warmup_epochs": 0.25},
        groups={"last_layer": {"frozen_epochs": 0.0}},
    ),
}
