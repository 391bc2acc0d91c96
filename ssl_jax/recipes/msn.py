"""MSN."""

from ssl_jax.recipes import teachers
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Layer, Recipe

SMALLEST = teachers.SMALLEST
# The prototypes are not decayed.
COMMON = Layer(model={"name": "vit_micro"}, groups={"prototypes": {"weight_decay": 0.0, "weight_decay_final": 0.0}})


def for_card(card: Card) -> Layer:
    """At least 7 x 7 patches, where the authors have 14 x 14, a small head and few prototypes."""
    if card.strong is None:
        return Layer(optim=teachers.ADAMW)
    crops = teachers.small(card, 4)
    fields = {
        "view": crops["global1"],
        "focal": crops["local"],
        "focals": crops["locals"],
        "hidden": (256,),
        "out": 64,
        "prototypes": 128,
        "tau": 0.99,
    }
    return Layer(method=fields, model={"patch": card.patch}, optim=teachers.ADAMW)


RECIPES = {
    # But for the warm-up from 2e-4, here 0, and schedules that the authors stretch over a quarter beyond the end.
    "imagenet": Recipe(
        source="facebookresearch/msn, configs/pretrain/msn_vits16.yaml",
        epochs=800,
        batch_size=1024,
        model={"name": "vit_small"},
        optim={
            "name": "adamw",
            "learning_rate": 1e-3,
            "scaling": "none",
            "final": 1e-3,
            "weight_decay": 0.04,
            "weight_decay_final": 0.4,
            "exclude": "1d",
            "warmup_epochs": 15.0,
            "clip_parts": 3.0,
        },
    ),
}

UNPUBLISHED = {
    "photo_tiles": Recipe(method={"focals": 2, "prototypes": 32}, model={"patch": 8}),
}
