"""Contrastive loss of pairs."""

from ssl_jax.recipes import triplet
from ssl_jax.recipes.layer import Recipe

for_card = triplet.for_card
# Ten digits have room to be further apart than the hundreds of classes that the margins were searched on.
UNPUBLISHED = {**triplet.UNPUBLISHED, "digits": Recipe(method={"negative_margin": 0.9})}
