"""Self-training: on digits, with the settings of DANN and an epoch for each round at least."""

from ssl_jax.recipes import dann

_ROUNDS = 4

UNPUBLISHED = {
    name: recipe.but(epochs=recipe.epochs if recipe.epochs and recipe.epochs >= _ROUNDS else _ROUNDS)
    for name, recipe in dann.UNPUBLISHED.items()
}
