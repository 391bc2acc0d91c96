"""CyCADA: on digits, with small networks."""

from ssl_jax.recipes.layer import Layer, Recipe

# CycleGAN's Adam for the generators and the discriminators; classifiers have the usual one.
_MADE = {"learning_rate": 2e-4, "b1": 0.5}
_ADAM = {"name": "adam", "learning_rate": 1e-3, "scaling": "none", "schedule": "constant"}
COMMON = Layer(groups={"generators": _MADE, "discriminators": _MADE})

_DIGITS = Recipe(
    batch_size=64,
    method={"hidden": (100,), "width": 16, "blocks": 2, "judge": (32, 64)},
    optim=_ADAM,
)

UNPUBLISHED = {
    "digits_inverted": Recipe(
        epochs=40, batch_size=64, method={"width": 8, "blocks": 1, "halvings": 1, "judge": (16, 32)}, optim=_ADAM
    ),
    "mnist_to_usps": _DIGITS,
    "usps_to_mnist": _DIGITS,
    "mnist_to_mnist_m": _DIGITS,
}
