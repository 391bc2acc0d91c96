"""BYOL."""

from ssl_jax.augment import recipes as views
from ssl_jax.recipes.layer import Expected, Layer, Recipe, lars, solo_larc

LIGHTLY = Recipe(
    source="lightly's CIFAR-10 benchmark",
    expected=(Expected(0.868, "knn"),),
    method={
        "view1": views.LIGHTLY_BYOL[0],
        "view2": views.LIGHTLY_BYOL[1],
        "hidden": 1024,
        "out_bias": True,
        "copy_target": True,
        "tau": 0.99,
        "tau_schedule": "constant",
        "update_target": "before",
        "scale": 0.25,
    },
)

RECIPES = {
    # But for the stem's padding of 2 and the warm-up from 3e-5, which here are 1 and 0.
    "cifar10": Recipe(
        source="solo-learn; the authors have no CIFAR recipe",
        expected=(Expected(0.926, "linear", "after 1000 epochs"),),
        batch_size=256,
        method={
            "view1": views.SOLO_ASYMMETRIC[0],
            "view2": views.SOLO_ASYMMETRIC[1],
            "out_bias": True,
            "tau": 0.99,
            "copy_target": True,
        },
        optim=solo_larc(learning_rate=1.0, weight_decay=1e-5),
    ),
    "cifar10_lightly": LIGHTLY,
    # The authors' LARS, learning rate outside the momentum, biases and norms left out.
    "imagenet": Recipe(
        source="paper, App. J: 300 epochs",
        expected=(Expected(0.725, "linear"),),
        epochs=300,
        method={"tau": 0.99},
        optim=lars("outside", learning_rate=0.3, weight_decay=1e-6),
    ),
}

SMALL = Layer(
    method={"hidden": 1024, "tau": 0.99},
    optim={"learning_rate": 0.03, "weight_decay": 5e-4},
)

UNPUBLISHED = {
    "digits": Recipe(method={"hidden": 256, "out": 64}, optim={"learning_rate": 0.1, "weight_decay": 1e-4}),
    # lightly's, with the narrow backbone: kNN .319, .358, .385, .381 after 5, 10, 15, 20 epochs.
    "cifar10_small": LIGHTLY.but(),
}
