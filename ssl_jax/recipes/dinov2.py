"""DINOv2. An epoch of the authors is 1,250 updates; here it is a pass over the images."""

from functools import partial
from typing import Any

from ssl_jax.augment import recipes as views
from ssl_jax.recipes import teachers
from ssl_jax.recipes.layer import Expected, Layer, Recipe

SMALLEST = teachers.SMALLEST
# While the last layer's rate is 0 its moments are gathered.
COMMON = Layer(model={"name": "vit_micro"}, groups={"last_layer": {"hold_epochs": 1.0}})
# Centres: with few images an update Sinkhorn's iterations make all of many prototypes equally likely.
for_card = partial(
    teachers.for_card, out=1024, tau=0.99, warmup_teacher_epochs=0.0, teacher_temp=0.04, balance="centre"
)

# 100 epochs of 1,250 updates of 2,048 images are 200 passes over the images.
SHORT = Recipe(
    source="vitl16_short.yaml of facebookresearch/dinov2: ViT-L/16, 125,000 updates of 2,048 images, as trained",
    expected=(Expected(0.829, "linear"), Expected(0.816, "knn")),
    epochs=200,
    batch_size=2048,
    method={"separate_head": False, "out": 65536, "bottleneck": 256, "balance": "centre", "tau": 0.992},
    model={"name": "vit_large", "layer_scale": 1e-5},
    optim=teachers.DINOV2_ADAMW,
    groups={"last_layer": {"hold_epochs": 2.0}},
)
PRINTED: dict[str, Any] = {"global1": views.DINOV2_PRINTED[0], "global2": views.DINOV2_PRINTED[1]}

RECIPES = {
    "imagenet": SHORT,
    "imagenet_printed": Recipe(
        card="imagenet",
        source="vitl16_short.yaml of facebookresearch/dinov2, the blur as the config has it; nobody published a result",
        epochs=SHORT.epochs,
        batch_size=SHORT.batch_size,
        method={**SHORT.method, **PRINTED},
        model=SHORT.model,
        optim=SHORT.optim,
        groups=SHORT.groups,
    ),
}

UNPUBLISHED = {
    # Few updates: short warm-up, a last layer that moves at once, a teacher that follows soon, few prototypes.
    "photo_tiles": Recipe(
        method={"locals": 2, "out": 64, "tau": 0.95, "koleo_group": 16},
        model={"patch": 8},
        optim={**teachers.ADAMW, "learning_rate": 3e-3, "warmup_epochs": 0.25},
        groups={"last_layer": {"hold_epochs": 0.0}},
    ),
}
