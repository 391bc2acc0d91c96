"""Split-brain autoencoder."""

from ssl_jax.recipes import colorization
from ssl_jax.recipes.layer import Recipe

SMALLEST = colorization.SMALLEST
for_card = colorization.for_card

UNPUBLISHED = {
    # No recipe of the authors for 32 pixels.
    "cifar10": Recipe(epochs=200, method={"widths": (128,)}),
    # The paper gives no optimiser: Adam as for smaller images, for a ResNet's usual epochs.
    "imagenet": Recipe(
        epochs=100, batch_size=256, data={"size": 256}, optim={**colorization.ADAMW, "warmup_epochs": 5.0}
    ),
}
