"""AdaptSegNet."""

from ssl_jax.recipes.cards import CARDS
from ssl_jax.recipes.layer import Layer, Recipe

# SGD of momentum .9 with a polynomial of power .9, of which a cosine is the nearest kind here; classifiers at ten times
# the rate; discriminators by Adam at 1e-4 (train_gta2cityscapes_multi.py).
COMMON = Layer(
    epochs=40,
    batch_size=16,
    run={"eval_epochs": 0.0},
    optim={"learning_rate": 2.5e-4, "scaling": "none", "weight_decay": 5e-4},
    groups={
        "classifier": {"learning_rate": 2.5e-3},
        "discriminator": {"name": "adam", "learning_rate": 1e-4, "b1": 0.9, "b2": 0.99, "weight_decay": 0.0},
    },
)

UNPUBLISHED = {
    "scenes_dusk": Recipe(
        method={"view": CARDS["scenes_dusk"].weak, "classes": 4, "dilations": (1, 2), "judge": (16, 32)},
        optim={"learning_rate": 0.01, "scaling": "none", "weight_decay": 5e-4},
        groups={"classifier": {"learning_rate": 0.1}},
    ),
    # Frames of CamVid by day and, without masks, at dusk: the sequence 0001TP. The rates are those of one image an
    # update times the batch of sixteen.
    "camvid_dusk": Recipe(
        method={"view": CARDS["camvid_dusk"].weak, "judge": (64, 128, 256)},
        optim={"learning_rate": 0.01, "scaling": "none", "weight_decay": 5e-4},
        groups={"classifier": {"learning_rate": 0.1}},
    ),
}
