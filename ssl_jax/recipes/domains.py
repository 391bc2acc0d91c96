"""Training cards of several domains: what adapts from one to another, or has to do without the last."""

from dataclasses import replace

from ssl_jax.augment import recipes
from ssl_jax.augment.view import View
from ssl_jax.recipes.layer import Card


def _digits(about: str, source: str, target: str | None, channels: int = 1) -> Card:
    """A card of sets of digits at 28 pixels, seen whole by LeNet."""
    return Card(
        about=f"{about}, 28x28: all training images, LeNet.",
        source=source,
        side=28,
        channels=channels,
        benchmark=True,
        has=frozenset({"domains"}),
        weak=View(size=28, crop="centre", order=("crop",), mean=(0.5,), std=(0.5,)),
        epochs=2,
        batch_size=128,
        data={"target": target, "size": 28},
        model={"name": "lenet", "width": 32, "conv_init": "torch"},
        run={"eval_epochs": 0.0},
    )


_INVERTED = Card(
    about="From 8x8 digits to the same digits in black on white: two domains without a download.",
    source="digits",
    side=8,
    channels=1,
    benchmark=True,
    has=frozenset({"domains"}),
    weak=replace(recipes.DIGITS, degrees=0.0, shear=0.0),
    sgd={"learning_rate": 0.3, "weight_decay": 1e-4},
    data={"target": "digits:inverted"},
    model={"name": "convnet", "width": 32},
    eval={"knn_k": 20},
    run={"eval_epochs": 10.0, "save_epochs": 25.0},
)

DOMAINS = {
    "digits_inverted": _INVERTED,
    "mnist_to_mnist_m": replace(
        _digits("", "mnist", "mnist_m", channels=3),
        about="From MNIST to MNIST-M, its digits blended with photographs, 28x28: adaptation of Ganin et al. 2016.",
        epochs=10,
        run={},
    ),
    "mnist_to_usps": _digits("From MNIST to USPS", "mnist", "usps"),
    "usps_to_mnist": _digits("From USPS to MNIST", "usps", "mnist"),
    # Domain generalisation: the domain that is left out is seen in evaluation alone, with --data.
    "digits_and_inverted": replace(
        _INVERTED,
        about="8x8 digits and the same in black on white, both with labels.",
        source="digits,digits:inverted",
        data={},
    ),
    "without_mnist_m": _digits("MNIST and USPS; MNIST-M is left out", "mnist,usps", None),
    "without_usps": _digits("MNIST and MNIST-M; USPS is left out", "mnist,mnist_m", None, channels=3),
    "without_mnist": _digits("USPS and MNIST-M; MNIST is left out", "usps,mnist_m", None, channels=3),
}
