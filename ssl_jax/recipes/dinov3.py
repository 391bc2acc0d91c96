"""DINOv3. An epoch of the authors is 1,250 updates; here it is a pass over the images."""

from functools import partial

from ssl_jax.recipes import teachers
from ssl_jax.recipes.layer import Expected, Layer, Recipe

SMALLEST = teachers.SMALLEST
COMMON = Layer(model={"name": "vit_micro_rope"}, groups={"last_layer": {"hold_epochs": 1.0}})
# No Gram loss: trainings are short.
for_card = partial(teachers.for_card, out=1024, tau=0.99, warmup_teacher_epochs=0.0, teacher_temp=0.04, koleo_group=64)

RECIPES = {
    # 100 epochs of 1,250 updates of 2,048 images are 200 passes over the images.
    "imagenet": Recipe(
        source="README and vitl_im1k of facebookresearch/dinov3: ViT-L/16, 125,000 updates of 2,048 images; what that "
        "does not say is as in DINOv2's short recipe",
        expected=(Expected(0.835, "linear"), Expected(0.82, "knn")),
        epochs=200,
        batch_size=2048,
        model={"name": "vit_large_rope", "layer_scale": 1e-5, "vit_init": "dinov3"},
        optim=teachers.DINOV2_ADAMW,
        groups={"last_layer": {"hold_epochs": 2.0}},
    ),
}

UNPUBLISHED = {
    # Few updates: short warm-up, a teacher that follows soon, few prototypes, and a last layer that moves at once and
    # fast. It starts with small logits, of which only a low temperature makes assignments that are not all alike.
    "photo_tiles": Recipe(
        method={
            "locals": 2,
            "out": 16,
            "teacher_temp": 0.02,
            "warmup_teacher_temp": 0.02,
            "tau": 0.95,
            "koleo_group": 16,
            "gram_weight": 1.0,
            "gram_start": 0.5,
            "gram_every": 1.0,
            "gram_size": 64,
        },
        model={"patch": 8},
        optim={**teachers.ADAMW, "learning_rate": 3e-3, "warmup_epochs": 0.25},
        groups={"last_layer": {"hold_epochs": 0.0, "learning_rate": 3e-2}},
    ),
}
