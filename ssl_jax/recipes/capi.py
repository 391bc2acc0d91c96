"""CAPI."""

from dataclasses import replace
from typing import Any

from ssl_jax.augment import recipes as views
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Expected, Layer, Recipe

SMALLEST = 28
ADAMW: dict[str, Any] = {
    "name": "adamw",
    "learning_rate": 1e-3,
    "scaling": "none",
    "schedule": "cosine_4_5",
    "b2": 0.95,
    "weight_decay": 0.1,
    "exclude": "1d",
    "warmup_epochs": 1.0,
    "patch_rate": 0.2,
}
# Norms have a tenth of the decay; the clustering layer has half the rate and torch's decay, of its bias, too.
CLUSTERS: dict[str, Any] = {"learning_rate": 5e-4, "weight_decay": 0.01, "exclude": "none"}
COMMON = Layer(
    model={"name": "vit_micro_capi", "vit_init": "capi", "registers": 4},
    groups={"norms": {"weight_decay": 0.01, "exclude": "none"}, "clusters": CLUSTERS},
)
# For small images: few clusters, many predictions, and a teacher that follows sooner. Of few updates a layer that
# starts with entries of the size of 1 would not notice with the authors' rate.
FEW = {"out": 256, "asked_share": 0.25, "depth": 2, "tau": 0.99, "tau_warmup_epochs": 1.0, "drop_path": 0.0}


def for_card(card: Card) -> Layer:
    """At least 7 x 7 patches, where the authors have 16 x 16, and a small decoder."""
    if card.weak is None:
        return Layer(optim=ADAMW)
    view = replace(views.CAPI, size=card.side, flip=card.weak.flip, mean=card.weak.mean, std=card.weak.std)
    groups = {"clusters": {**CLUSTERS, "learning_rate": 1e-2}}
    return Layer(method={"view": view, **FEW}, model={"patch": card.patch}, optim=ADAMW, groups=groups)


RECIPES = {
    # 500,000 updates of 16,384 images; on ImageNet-1k they are 6,400 epochs. The results are of an attentive probe.
    "imagenet": Recipe(
        source="facebookresearch/capi, default_pretrain_config.yaml; result of the README",
        expected=(Expected(0.829, "attentive"),),
        epochs=6400,
        batch_size=16384,
        method={"tau_warmup_epochs": 640.0},
        model={"name": "vit_large_capi", "patch": 14, "registers": 16},
        optim={**ADAMW, "warmup_epochs": 640.0},
    ),
}

UNPUBLISHED = {
    # No recipe of the authors: patches of 4 pixels, 64 an image.
    "cifar10": Recipe(
        epochs=400,
        batch_size=256,
        method={"out": 1024, "depth": 4, "tau": 0.996, "tau_warmup_epochs": 15.0},
        model={"name": "vit_tiny_capi"},
        optim={**ADAMW, "warmup_epochs": 15.0},
    ),
    "cifar10_small": Recipe(batch_size=128),
    "photo_tiles": Recipe(method={"out": 32}, groups={"clusters": {**CLUSTERS, "learning_rate": 5e-2}}),
}
