"""RotNet."""

from ssl_jax.augment import recipes as views
from ssl_jax.recipes.layer import Recipe

RECIPES = {
    # The authors give the rate for 128 images, each in four rotations.
    "cifar10": Recipe(
        source="authors' code (gidariss/FeatureLearningRotNet) for CIFAR-10",
        epochs=200,
        batch_size=128,
        method={"view": views.ROTNET_CIFAR},
        optim={
            "learning_rate": 0.1,
            "scaling": "none",
            "nesterov": True,
            "weight_decay": 5e-4,
            "schedule": "steps",
            "factor": 0.2,
            "milestones": (60, 120, 160),
        },
    ),
    # With the authors' four rotations of each image (VISSL turns each once).
    "imagenet": Recipe(
        source="VISSL's rotnet_8gpu_resnet.yaml, a ResNet-50",
        epochs=105,
        batch_size=256,
        optim={
            "learning_rate": 0.1,
            "weight_decay": 1e-4,
            "exclude": "norm",
            "schedule": "steps",
            "milestones": (30, 60, 90, 100),
        },
    ),
}

UNPUBLISHED = {"photo_tiles": Recipe(optim={"learning_rate": 0.1})}
