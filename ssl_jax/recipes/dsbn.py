"""DSBN: on digits, with a backbone that has BatchNorm."""

from ssl_jax.recipes import dann
from ssl_jax.recipes.layer import Recipe


def _normed(recipe: Recipe) -> Recipe:
    """The recipe of DANN with a small convnet in the place of LeNet, and the rate that this one stands."""
    return recipe.but(model={"name": "convnet"}, method={"hidden": ()}, optim=None)


UNPUBLISHED = {
    name: recipe if name == "digits_inverted" else _normed(recipe) for name, recipe in dann.UNPUBLISHED.items()
}
