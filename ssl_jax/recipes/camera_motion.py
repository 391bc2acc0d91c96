"""Camera motion."""

from ssl_jax.augment.view import evaluation
from ssl_jax.recipes import defaults, egomotion
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Layer, Recipe


def for_card(card: Card) -> Layer:
    """Frames as they are."""
    method = {} if card.weak is None else {"view": evaluation(card.weak, 1.0), "hidden": (256,)}
    return Layer(method=method, optim=defaults.optimiser(card, egomotion.ADAM))


UNPUBLISHED = {
    # A window that moves by up to 3 pixels a frame, in any direction.
    "photo_pans": Recipe(
        batch_size=32, method={"right": 21.0, "down": 21.0, "ahead": 0.0, "turn": 0.0, "hidden": (128,)}
    ),
    # A hundred frames show that poses are read as they are meant; they are too few to learn from.
    "kitti": Recipe(),
}
