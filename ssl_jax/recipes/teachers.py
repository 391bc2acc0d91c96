"""What recipes of the methods with a masked teacher (iBOT, DINOv2, SimDINO) have in common."""

from dataclasses import replace
from typing import Any

from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Fields, Layer

SMALLEST = 28
ADAMW: dict[str, Any] = {
    "name": "adamw",
    "learning_rate": 1e-3,
    "scaling": "none",
    "weight_decay": 0.04,
    "weight_decay_final": 0.4,
    "exclude": "1d",
    "warmup_epochs": 1.0,
    "final": 1e-3,
    "clip_parts": 3.0,
}
# facebookresearch/dinov2 vitl16_short.yaml.
DINOV2_ADAMW: dict[str, Any] = {
    "name": "adamw",
    "learning_rate": 0.004 / 32,  # times the root of N: .004 at 1,024
    "scaling": "sqrt",
    "final": 1e-6 / (0.004 * 2**0.5),
    "weight_decay": 0.04,
    "weight_decay_final": 0.4,
    "exclude": "1d",
    "warmup_epochs": 20.0,
    "clip_parts": 3.0,
    "layer_decay": 0.9,
    "patch_rate": 0.2,
}
# Of the head, for small images.
HEAD: dict[str, Any] = {"hidden": (256,), "bottleneck": 64}


def small(card: Card, locals_: int) -> Fields:
    """Views of a card of small images: two large crops, and small ones of about half the side."""
    assert card.strong is not None
    large = replace(card.strong, area=(0.3, 1.0))
    side = card.patch * max(round(card.side / card.patch / 2), 1)
    local = replace(card.strong, size=side, area=(0.05, 0.3))
    return {"global1": large, "global2": large, "local": local, "locals": locals_}


def for_card(card: Card, **method: Any) -> Layer:
    """Settings for small images: at least 7 x 7 patches, where the authors have 14 x 14, and a small head.

    Args:
      card: of the data set.
      **method: fields of the method.
    """
    if card.strong is None:
        return Layer(optim=ADAMW)
    fields = {**small(card, 4), **HEAD, "drop_path": 0.0, **method}
    return Layer(method=fields, model={"patch": card.patch}, optim=ADAMW)
