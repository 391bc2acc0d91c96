"""N-pair loss."""

from ssl_jax.recipes import triplet


def for_card(card):
    """As triplets; two pairs of a class, since a data set may have no more than ten."""
    layer = triplet.for_card(card)
    return layer.but(method={"images_per_class": 4})


# With as many images a batch as the other losses have, half as many of each class and twice the classes.
UNPUBLISHED = {name: recipe.but(method={"images_per_class": 2}) for name, recipe in triplet.UNPUBLISHED.items()}
