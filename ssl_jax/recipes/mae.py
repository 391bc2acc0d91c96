"""MAE."""

from dataclasses import replace

from ssl_jax.augment import recipes as views
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Expected, Layer, Recipe

SMALLEST = 28
COMMON = Layer(model={"name": "vit_micro", "positions": "sincos", "vit_init": "mae"})
# The authors' AdamW: tokens are decayed, biases and norms are not.
ADAMW = {
    "name": "adamw",
    "learning_rate": 1e-3,
    "scaling": "none",
    "b2": 0.95,
    "weight_decay": 0.05,
    "exclude": "1d",
}
LONG = {**ADAMW, "learning_rate": 1.5e-4, "scaling": "linear", "warmup_epochs": 40.0}


def for_card(card: Card) -> Layer:
    """At least 7 x 7 patches, where the authors have 14 x 14, and a narrower decoder."""
    optim = {**ADAMW, "warmup_epochs": 1.0}
    if card.weak is None:
        return Layer(optim=optim)
    view = replace(views.MAE, size=card.side, flip=card.weak.flip)
    if card.channels == 1:
        view = replace(card.weak, jitter=0.0)
    return Layer(method={"view": view, "width": 64, "depth": 2, "heads": 2}, model={"patch": card.patch}, optim=optim)


RECIPES = {
    "imagenet": Recipe(
        source="PRETRAIN.md of facebookresearch/mae: ViT-B/16, 800 epochs; results are of 1600 epochs",
        expected=(Expected(0.680, "linear", "after 1600 epochs"), Expected(0.836, "fine_tune", "after 1600 epochs")),
        epochs=800,
        model={"name": "vit_base", "patch": 16},
        optim=LONG,
    ),
}

UNPUBLISHED = {
    "photo_tiles": Recipe(epochs=20, optim={**ADAMW, "warmup_epochs": 0.25}),
    # No recipe of the authors: patches of 4 pixels, 64 an image where they have 196, and a narrower decoder. That of
    # solo-learn (mae.yaml: ViT-S, a decoder of 8 blocks of 512, rate 2e-4, 1000 epochs) takes several times as long.
    "cifar10": Recipe(
        epochs=800,
        method={
            "view": replace(views.MAE, size=32, mean=views.CIFAR10_MEAN, std=views.CIFAR10_STD),
            "width": 128,
            "depth": 4,
            "heads": 4,
        },
        model={"name": "vit_tiny"},
        optim=LONG,
    ),
    # An update sees a quarter of few tokens and is far cheaper than a ResNet's: more of them.
    "cifar10_small": Recipe(batch_size=128),
}
