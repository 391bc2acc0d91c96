"""BiGAN."""

from dataclasses import replace

from ssl_jax.methods.pretext.bigan import CROP
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Expected, Layer, Recipe

SMALLEST = 8
# The authors' Adam for all three, with the L2 penalty in the gradient (train_gan.py, lib/updates.py).
ADAM = {
    "name": "adam",
    "learning_rate": 2e-4,
    "scaling": "none",
    "schedule": "constant",
    "b1": 0.5,
    "weight_decay": 2.5e-5,
}
COMMON = Layer(groups={"discriminator": {}})


def for_card(card: Card) -> Layer:
    """Networks for small images."""
    if card.weak is None:
        return Layer(optim=ADAM)
    view = replace(CROP, size=card.side, flip=card.weak.flip, crop="centre", order=("crop", "flip"))
    layers = 2 if card.side < 32 else 3
    widths = tuple(64 * 2**i for i in range(layers))
    return Layer(method={"view": view, "code": 50, "widths": widths[::-1], "judge": widths}, optim=ADAM)


def decay(epochs: int) -> dict:
    """The authors' rate: constant for half the epochs, then down to a hundredth, in 20 steps where theirs has 200."""
    milestones = tuple(epochs * (20 + i) / 40 for i in range(20))
    return {**ADAM, "schedule": "steps", "milestones": milestones, "factor": 0.01 ** (1 / 20)}


def dense(width: int) -> dict:
    """Fields of networks of two layers each, for digits as they are."""
    view = replace(CROP, size=28, flip=0.0, crop="centre", order=("crop",), mean=(0.0,), std=(1.0,))
    return {"view": view, "code": 50, "dense": True, "widths": (width, width), "judge": (width, width)}


RECIPES = {
    # Of theirs 97.35 % is the encoder after 400 epochs and 96.84 % before the first. Reconstructions are .62 times as
    # far from their digit as from another.
    "mnist": Recipe(
        source="authors' code (jeffdonahue/bigan, train_mnist.sh, net.py)",
        epochs=400,
        batch_size=128,
        model={"name": "mlp", "width": 1024, "conv_init": "dcgan"},
        method=dense(1024),
        optim=decay(400),
        expected=(Expected(0.9735, "1nn"),),
    ),
    "imagenet": Recipe(
        source="authors' code (jeffdonahue/bigan, train_gan.py) for 64 pixels, but for the encoder's network",
        epochs=100,
        batch_size=128,
        data={"size": 72},
        optim=ADAM,
    ),
}

UNPUBLISHED = {
    "digits": Recipe(method={"widths": (32, 16), "judge": (16, 32)}, batch_size=128),
    # Half as wide, and a twentieth of the updates.
    "mnist_small": RECIPES["mnist"].but(
        card="mnist", epochs=20, model={"width": 512}, method=dense(512), optim=decay(20), run={"eval_epochs": 0.0}
    ),
}
