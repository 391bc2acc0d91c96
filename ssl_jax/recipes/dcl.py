"""DCL. DCLW is `--config.method.sigma=0.5`."""

from ssl_jax.augment import recipes as views
from ssl_jax.recipes.layer import Expected, Layer, Recipe, lars

LIGHTLY = Recipe(
    source="lightly's CIFAR-10 benchmark",
    expected=(Expected(0.840, "knn"), Expected(0.824, "knn", "DCLW")),  # SimCLR's at T = 0.5 has 84.8
    method={
        "view1": views.LIGHTLY_SIMCLR,
        "view2": views.LIGHTLY_SIMCLR,
        "hidden": (512,),
        "temperature": 0.1,
        "concat_views": False,
        "dense_std": 0.0,
        "out_offset": True,
    },
)

RECIPES = {
    # SimCLR's own CIFAR recipe (about 91 % linear accuracy with NT-Xent) at T = 0.1, where the run has 83.3 % with
    # NT-Xent.
    "cifar10": Recipe(
        source="README of google-research/simclr; the result is a public run of raminnakhli's repository",
        expected=(Expected(0.854, "linear", "after 100 epochs with N = 256"),),
        method={"view1": views.SIMCLR_CIFAR, "view2": views.SIMCLR_CIFAR, "hidden": (512, 512)},
        model={"zero_init": True},
        optim=lars("inside", learning_rate=1.0, weight_decay=1e-4),
    ),
    "cifar10_lightly": LIGHTLY,
    # The optimiser is SimCLR's, whose framework the paper takes; it could not be compared with theirs.
    "imagenet": Recipe(
        source="paper, sec. 4.1: N = 256, 200 epochs",
        expected=(Expected(0.682, "linear"),),
        epochs=200,
        batch_size=256,
        model={"zero_init": True},
        optim=lars("inside", learning_rate=0.3, weight_decay=1e-6),
    ),
}

SMALL = Layer(
    method={"hidden": (128,), "temperature": 0.2, "dense_std": 0.0},
)

UNPUBLISHED = {
    "digits": Recipe(method={"out": 64}),
    "cifar10_small": LIGHTLY.but(method={"hidden": (128,)}),
}
