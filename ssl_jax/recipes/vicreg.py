"""VICReg."""

from ssl_jax.augment import recipes as views
from ssl_jax.recipes.layer import Expected, Layer, Recipe, lars, solo_larc

RECIPES = {
    # But for the stem's padding of 2, the warm-up from 3e-5, here 1 and 0, and a bias at the end, which the loss
    # cancels. solo-learn adds the variance terms of the branches up: 25 there is 50 here.
    "cifar10": Recipe(
        source="solo-learn; the authors have no CIFAR recipe",
        expected=(Expected(0.9207, "linear", "after 1000 epochs"),),
        batch_size=256,
        method={
            "view1": views.SOLO_VICREG,
            "view2": views.SOLO_VICREG,
            "hidden": (2048, 2048),
            "out": 2048,
            "std_coeff": 50.0,
        },
        optim=solo_larc(learning_rate=0.3, weight_decay=1e-4),
    ),
    "imagenet": Recipe(
        source="README of facebookresearch/vicreg: 1000 epochs",
        expected=(Expected(0.732, "linear"),),
        epochs=1000,
        batch_size=2048,
        model={"zero_init": True},
        optim=lars("outside", learning_rate=0.2, weight_decay=1e-6, final=0.001),
    ),
}

# For optimisers that see the scale of a gradient: a tenth of the coefficients.
SMALL = Layer(
    method={"hidden": (256,), "out": 256, "sim_coeff": 2.5, "std_coeff": 2.5, "cov_coeff": 0.1},
    optim=solo_larc(learning_rate=0.3, weight_decay=1e-4, warmup_epochs=1.0),
)

UNPUBLISHED = {
    "digits": Recipe(
        method={"hidden": (128,), "out": 64},
        optim={"learning_rate": 0.1, "weight_decay": 1e-4},
    ),
    # lightly's views and solo-learn's recipe made small. Warm-up is short, and biases and norms take the plain rate:
    # with a tenth of the weights they start at the pace of SimCLR's. LARC sees little of the factor.
    "cifar10_small": Recipe(
        method={
            "view1": views.LIGHTLY_BYOL[0],
            "view2": views.LIGHTLY_BYOL[1],
            "hidden": (512, 512),
            "out": 512,
            "sim_coeff": 2.5,
            "std_coeff": 5.0,
            "cov_coeff": 0.1,
        },
        optim=solo_larc(learning_rate=0.3, weight_decay=1e-4, warmup_epochs=1.0),
    ),
}
