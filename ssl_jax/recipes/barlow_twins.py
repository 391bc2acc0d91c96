"""Barlow Twins."""

from ssl_jax.augment import recipes as views
from ssl_jax.recipes.layer import Expected, Layer, Recipe, lars, solo_larc

COMMON = Layer(groups={"vectors": {}})  # biases and norms

RECIPES = {
    # But for the stem's padding of 2, the warm-up from 3e-5, here 1 and 0, and the biases, which BatchNorm cancels.
    "cifar10": Recipe(
        source="solo-learn; the authors have no CIFAR recipe",
        expected=(Expected(0.921, "linear", "after 1000 epochs"),),
        batch_size=256,
        method={
            "view1": views.SOLO_ASYMMETRIC[0],
            "view2": views.SOLO_ASYMMETRIC[1],
            "hidden": (2048, 2048),
            "out": 2048,
            "scale": 0.1,
        },
        optim=solo_larc(learning_rate=0.3, weight_decay=1e-4),
    ),
    # lightly's output layer has a bias, which the loss cancels.
    "cifar10_lightly": Recipe(
        source="lightly's CIFAR-10 benchmark",
        expected=(Expected(0.819, "knn"),),
        method={
            "view1": views.LIGHTLY_BYOL[0],
            "view2": views.LIGHTLY_BYOL[1],
            "hidden": (2048,),
            "out": 2048,
            "lambd": 0.005,
        },
    ),
    # W = 32 GPUs, see the method's docstring: the rate of biases and norms is divided by W, and so that LARS sees the
    # authors' g + lambda w but for a factor, the decay 1e-6 is multiplied by it.
    "imagenet": Recipe(
        source="README of facebookresearch/barlowtwins",
        expected=(Expected(0.735, "linear"), Expected(0.732, "linear", "of the paper")),
        epochs=1000,
        batch_size=2048,
        model={"zero_init": True},
        optim=lars("outside", learning_rate=0.2, weight_decay=32e-6, final=0.001),
        groups={"vectors": {"learning_rate": 0.0048 / 32}},
    ),
}

# With few components each has few others: lambda is larger. The scale, 2 / D, makes the gradient as large as that of
# the other methods, so that their SGD fits.
SMALL = Layer(
    method={"hidden": (256,), "out": 256, "lambd": 0.02, "scale": 1 / 128},
)

UNPUBLISHED = {
    "digits": Recipe(
        method={"hidden": (128,), "out": 64, "scale": 1 / 32},
        optim={"learning_rate": 0.1, "weight_decay": 1e-4},
    ),
    # lightly's recipe made small: D is a quarter, lambda four times larger. The loss is as large as D, and at the rate
    # of the other methods the network unlearns (kNN .254, untrained .292). Times 2 / D, its first gradients are as
    # large as NT-Xent's at T = .5, measured (|g| / |w| .62 and .57, the median over layers).
    "cifar10_small": RECIPES["cifar10_lightly"].but(
        method={"hidden": (512,), "out": 512, "lambd": 0.02, "scale": 1 / 256}
    ),
}
