"""Context prediction."""

from dataclasses import replace

from ssl_jax.augment.view import View
from ssl_jax.methods.pretext.context_prediction import VIEW
from ssl_jax.recipes import defaults
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Layer, Recipe

SMALLEST = 28


def for_card(card: Card) -> Layer:
    """Enlarges images by half, and shrinks patches to half of their side at most.

    Patches of 8 pixels would leave most weights of a ResNet's last stage without a place to look.
    """
    if card.weak is None:
        return defaults.task(card)
    side = card.side * 3 // 2
    view = View(size=side, area=(0.6, 1.0), flip=card.weak.flip, order=("crop", "flip"), mean=VIEW.mean, std=VIEW.std)
    patch, jitter = side // 4, round(side / 24)
    cut = {"patch": patch, "gap": (side - 3 * patch - jitter) // 2, "jitter": jitter, "smallest": patch // 2}
    if card.channels == 1:
        view = replace(view, mean=card.weak.mean)
        cut["drop_colours"] = False
    return defaults.task(card, view=view, hidden=(512,), **cut)


RECIPES = {
    # Patches of 64 pixels lie anywhere in cells of 85, in grey for two images of three; 35 epochs. The head stays
    # Doersch's; theirs embeds a patch in 1000 numbers and has one hidden layer of 4096, with dropout.
    "imagenet": Recipe(
        source="Kolesnikov et al. 2019 (arXiv 1901.09005), on a ResNet-50",
        epochs=35,
        batch_size=2048,
        data={"size": 292},
        method={
            "view": View(
                size=255, crop="shift", pad=0, gray=0.66, order=("crop", "gray"), mean=VIEW.mean, std=VIEW.std
            ),
            "patch": 64,
            "gap": 21,
            "jitter": 21,
            "drop_colours": False,
            "shrink": 0.0,
        },
        optim={
            "learning_rate": 0.1,
            "weight_decay": 1e-4,
            "exclude": "1d",  # their code (google/revisiting-self-supervised, models/resnet.py) decays kernels alone
            "schedule": "steps",
            "milestones": (15, 25),
            "warmup_epochs": 5.0,
        },
    ),
}

UNPUBLISHED = {
    "photo_tiles": Recipe(
        method={
            "view": View(size=32, area=(0.6, 1.0), flip=0.5, order=("crop", "flip"), mean=VIEW.mean, std=VIEW.std),
            "patch": 8,
            "gap": 3,
            "jitter": 2,
            "smallest": 4,
            "hidden": (256,),
        },
        optim={"learning_rate": 0.3, "weight_decay": 1e-4},
    ),
    # Grey, and black around: a patch without clothes says nothing.
    "fashion_mnist": Recipe(),
    # The authors have no recipe for CIFAR.
    "cifar10": Recipe(epochs=200, batch_size=128),
}
