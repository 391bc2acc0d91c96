"""Domain generalisation: one digit domain left out."""

from ssl_jax.recipes.layer import Recipe

_DIGITS = Recipe(method={"hidden": (100,)}, optim={"learning_rate": 0.01, "scaling": "none"})

UNPUBLISHED = {
    "digits_and_inverted": Recipe(epochs=40, batch_size=128),
    "without_mnist_m": _DIGITS,
    "without_usps": _DIGITS,
    "without_mnist": _DIGITS,
}
