"""SimCLR."""

from ssl_jax.augment import recipes as views
from ssl_jax.recipes.layer import Expected, Layer, Recipe, lars

LIGHTLY = Recipe(
    source="lightly's CIFAR-10 benchmark",
    expected=(Expected(0.848, "knn"),),
    method={
        "view1": views.LIGHTLY_SIMCLR,
        "view2": views.LIGHTLY_SIMCLR,
        "hidden": (512,),
        "temperature": 0.5,
        "concat_views": False,
        "scale": 1.0,
        "dense_std": 0.0,
        "out_offset": True,
    },
)

# LARS is the authors': learning rate inside the momentum, biases and norms left out.
RECIPES = {
    # The code's defaults are v2's by then: three layers in the head, multiplicative brightness.
    "cifar10": Recipe(
        source="README of google-research/simclr: ResNet-18, N = 512, 1000 epochs",
        expected=(Expected(0.91, "linear", "about"),),
        method={
            "view1": views.SIMCLR_CIFAR,
            "view2": views.SIMCLR_CIFAR,
            "temperature": 0.5,
            "hidden": (512, 512),
        },
        model={"zero_init": True},
        optim=lars("inside", learning_rate=1.0, weight_decay=1e-4),
    ),
    "cifar10_lightly": LIGHTLY,
    "imagenet": Recipe(
        source="paper, sec. 2.2 and 4.2: N = 4096, LARS 4.8, 100 epochs; tab. 5, T = 0.1",
        expected=(Expected(0.644, "linear"),),
        epochs=100,
        model={"zero_init": True},
        optim=lars("inside", learning_rate=0.3, weight_decay=1e-6),
    ),
}

SMALL = Layer(
    method={"hidden": (128,), "temperature": 0.2, "dense_std": 0.0, "scale": 1.0},
)

UNPUBLISHED = {
    "digits": Recipe(method={"out": 64}),
    # lightly's, made small: kNN .395, .418, .434, .440 after 5, 10, 15, 20 epochs.
    "cifar10_small": LIGHTLY.but(method={"hidden": (128,)}),
}
