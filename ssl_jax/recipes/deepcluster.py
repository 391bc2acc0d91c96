"""DeepCluster-v2."""

from dataclasses import replace

from ssl_jax.augment import recipes as views
from ssl_jax.recipes import defaults, swav
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Expected, Layer, Recipe
from ssl_jax.recipes.swav import LARC


def for_card(card: Card) -> Layer:
    if card.strong is None:
        return defaults.comparing(card)
    return defaults.comparing(card, large=card.strong, small_crops=0, hidden=128, prototypes=256)


RECIPES = {
    # But for the stem's padding of 2 and the views going through the network one by one.
    "cifar10": Recipe(
        source="solo-learn's deepclusterv2.yaml; the authors have no CIFAR recipe",
        expected=(Expected(0.889, "linear", "after 1000 epochs"),),
        batch_size=256,
        method={"large": views.SOLO_SYMMETRIC, "small_crops": 0},
        optim={
            **LARC,
            "learning_rate": 0.6,
            "trust": 0.02,
            "trust_clip": True,
            "exclude": "1d",
            "final": 1e-3,  # 6e-4 in the end
            "warmup_epochs": 11.0,
        },
    ),
    # Its BatchNorm sees 512 images, which on up to 8 devices is config.model.bn_groups = 8.
    "imagenet": Recipe(
        source="deepclusterv2_800ep_pretrain.sh of facebookresearch/swav",
        expected=(Expected(0.752, "linear"),),
        epochs=800,
        optim=LARC,
    ),
}

UNPUBLISHED = {
    "digits": Recipe(
        method={
            "small": replace(views.DIGITS, size=6, crop="torch", area=(0.5, 1.0)),
            "small_crops": 2,
            "out": 64,
            "prototypes": 64,
        },
    ),
    # The recipe of SwAV's preset of that name, but for views going through the network together; lightly has none.
    "cifar10_small": Recipe(
        method={"large": swav.LIGHTLY.method["large"]},
        optim=swav.UNPUBLISHED["cifar10_small"].optim,
    ),
}
