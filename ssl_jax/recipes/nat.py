"""NAT."""

from ssl_jax.recipes.layer import Layer, Recipe

RECIPES = {
    # The authors' network is an AlexNet of Sobel channels, whose conv5 gives 36.0 % with a linear classifier.
    "imagenet": Recipe(
        source="main.lua of facebookresearch/noise-as-targets, but for the network",
        epochs=100,
        batch_size=256,
        # .01 on the sum over 256 images.
        optim={"learning_rate": 2.56, "scaling": "none", "momentum": 0.0, "schedule": "constant"},
    ),
}

# Targets as wide as the features of small networks, and a projector as those have it.
SMALL = Layer(method={"hidden": (512,), "out": 128})

UNPUBLISHED = {"digits": Recipe(method={"hidden": (64,), "out": 64})}
