"""S4L.

S4L-Exemplar: `--config.method.task=exemplar --config.method.copies=8`, with HSV noise in `config.method.view` (`hsv=1`,
and 'hsv' in its `order`); on ImageNet also `--config.batch_size=1024 --config.optim.default.learning_rate=0.1
--config.optim.default.warmup_epochs=1`, the authors' 512 labelled images beside as many others.
"""

from ssl_jax.recipes import supervised
from ssl_jax.recipes.layer import Recipe

RECIPES = {
    # S4L-Rotation with 10 % of the labels: 256 labelled images and as many others in a batch. The authors' 200 epochs
    # are of the 128,000 labelled images, which makes 20 of all. Their top-1: 61.4 %, supervised 56.4 %.
    "imagenet": Recipe(
        source="authors' code (google-research/s4l), S4L-Rotation with 10 % of the labels",
        epochs=20,
        batch_size=512,
        optim={
            "learning_rate": 0.03,
            "scaling": "none",
            "weight_decay": 1e-3,
            "exclude": "1d",  # models/resnet.py decays kernels alone
            "warmup_epochs": 0.5,
            "schedule": "steps",
            "milestones": (14, 16, 18),
        },
    ),
}

UNPUBLISHED = {
    # The authors have no recipe for CIFAR: the optimiser of the supervised baseline, and its 128 images in either half.
    "cifar10": Recipe(epochs=200, batch_size=256, optim=supervised.RECIPES["cifar10"].optim),
}
