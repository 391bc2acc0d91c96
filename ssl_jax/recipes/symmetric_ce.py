"""Symmetric cross-entropy: the recipes of the supervised baseline, with other views where that has them."""

from ssl_jax.recipes import supervised

UNPUBLISHED = {
    "cifar10": supervised.RECIPES["cifar10"].but(),
    "digits": supervised.UNPUBLISHED["digits"],
}
