"""Colorization. `python -m ssl_jax.main --config=configs/colorization.py:cifar10 --workdir=runs/colorization`."""

import dataclasses

from ml_collections import ConfigDict

from configs import common
from ssl_jax.methods.pretext.colorization import CROP

PRESETS = common.COLOUR_PRESETS


def get_config(preset: str = "cifar10") -> ConfigDict:
    """Returns the config; `preset` is one of `common.COLOUR_PRESETS`."""
    config = common.get_config("colorization", preset, PRESETS)
    if preset == "imagenet":
        # The authors' Adam: about 480,000 updates of 40 images are 15 epochs. Their decay is coupled.
        config.epochs, config.batch_size, config.data.size = 15, 40, 256
        config.optim.default = common.optimizer(
            name="adam",
            learning_rate=3e-5,
            scaling="none",
            schedule="steps",
            milestones=(7, 14),
            b2=0.99,
            weight_decay=1e-3,
        )
        return config
    # No recipe of the authors for 32 pixels: 8x8 targets, one step from a ResNet's map. Resized crops have no border.
    view = dataclasses.replace(CROP, size=32, crop="torch", area=(0.5, 1.0))
    common.update(config.method, view=view, widths=(64,))
    config.optim.default = common.optimizer(
        name="adamw", learning_rate=1e-3, scaling="none", weight_decay=1e-3, warmup_epochs=0.25
    )
    if preset == "cifar10":
        config.epochs, config.method.widths = 200, (256,)
    return config
