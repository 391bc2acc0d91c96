"""NNCLR."""

from ssl_jax.augment import recipes as views
from ssl_jax.recipes.layer import Expected, Layer, Recipe, lars, solo_larc

LIGHTLY = Recipe(
    source="lightly's CIFAR-10 benchmark, with a queue of 8192 at N = 512",
    expected=(Expected(0.815, "knn"),),
    method={
        "view1": views.LIGHTLY_SIMCLR,
        "view2": views.LIGHTLY_SIMCLR,
        "hidden": (2048,),
        "temperature": 0.5,
        "queue_size": 8192,
        "nt_xent": True,
    },
)

RECIPES = {
    # But for the stem's padding of 2 and the warm-up from 3e-5, which here are 1 and 0.
    "cifar10": Recipe(
        source="solo-learn; the authors have no CIFAR recipe",
        expected=(Expected(0.919, "linear", "after 1000 epochs"),),
        batch_size=256,
        method={
            "view1": views.SOLO_ASYMMETRIC[0],
            "view2": views.SOLO_ASYMMETRIC[1],
            "hidden": (2048, 2048),
            "temperature": 0.2,
            "queue_size": 65536,
        },
        optim=solo_larc(learning_rate=0.4, weight_decay=1e-5),
    ),
    "cifar10_lightly": LIGHTLY,
    # The paper leaves open what SimCLR's LARS leaves out. The port for VISSL has the same heads, queue, temperature and
    # optimiser; it takes the paper's views for both of BYOL's, as solo-learn does. Its warm-up starts at an eighth of
    # the rate, here at 0.
    "imagenet": Recipe(
        source="paper, sec. 4.1, and the port for VISSL (nnclr_8node_resnet.yaml): 1000 epochs",
        expected=(Expected(0.754, "linear"),),
        epochs=1000,
        method={"view1": views.BYOL[0], "view2": views.BYOL[1]},
        model={"zero_init": True},
        optim=lars("inside", learning_rate=0.3, weight_decay=1e-6),
    ),
}

SMALL = Layer(
    method={"hidden": (512,), "out": 64, "predictor_hidden": 512, "temperature": 0.2, "queue_size": 4096},
)

UNPUBLISHED = {
    "digits": Recipe(
        batch_size=128,
        method={"hidden": (128,), "predictor_hidden": 256, "queue_size": 512},
    ),
    # lightly's, made small.
    "cifar10_small": LIGHTLY.but(method={"hidden": (512,), "out": 64, "predictor_hidden": 1024, "queue_size": 2048}),
}
