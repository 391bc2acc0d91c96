"""Context encoder."""

from dataclasses import replace

from ssl_jax.methods.pretext.context_encoder import CROP
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Layer, Recipe

SMALLEST = 28
# The authors' Adam for both, whose generator learns ten times as fast (README and train.lua).
ADAM = {"name": "adamw", "learning_rate": 2e-3, "scaling": "none", "schedule": "constant", "b1": 0.5}
COMMON = Layer(groups={"discriminator": {"learning_rate": 2e-4}})


def for_card(card: Card) -> Layer:
    """The authors' proportions, a quarter of the sizes; multiples of 4."""
    optim = {**ADAM, "warmup_epochs": 0.25}
    if card.weak is None:
        return Layer(optim=optim)
    view = replace(CROP, size=card.side // 4 * 4, flip=card.weak.flip, crop="torch", area=(0.5, 1.0))
    fill = {"fill": card.weak.mean} if card.channels == 1 else {}
    return Layer(method={"view": view, "overlap": 1, "widths": (64, 32), "judge": (32, 64), **fill}, optim=optim)


RECIPES = {
    "imagenet": Recipe(
        source="authors' code (pathak22/context-encoder, README and train.lua)",
        epochs=500,
        batch_size=64,
        data={"size": 350},
        model={"conv_init": "dcgan"},  # N(0, 0.02) as in all of their networks
        optim=ADAM,
    ),
}

# No recipe of the authors for 32 pixels.
UNPUBLISHED = {
    "photo_tiles": Recipe(method={"widths": (32, 16), "judge": (16, 32)}),
    "cifar10": Recipe(epochs=200, batch_size=64, method={"widths": (256, 128), "judge": (64, 128)}),
}
