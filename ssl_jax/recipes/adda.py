"""ADDA."""

from ssl_jax.recipes import dann
from ssl_jax.recipes.layer import Fields


def _adam(epochs: int) -> Fields:
    """The authors' Adam: 1e-3 for the source, a fifth of it and b1 = .5 against the adversary."""
    steps = {"schedule": "steps", "milestones": (epochs // 2,), "factor": 0.2}
    return {"name": "adam", "learning_rate": 1e-3, "scaling": "none", "b1": 0.5, **steps}


# The optimiser is that of the authors' digits (erictzeng/adda); networks and data are DANN's here.
UNPUBLISHED = {
    name: recipe.but(epochs=epochs, optim=_adam(epochs))
    for name, epochs, recipe in (
        (name, max(recipe.epochs or 2, 2), recipe) for name, recipe in dann.UNPUBLISHED.items()
    )
}
