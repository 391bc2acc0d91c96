"""Split-brain autoencoder. `python -m ssl_jax.main --config=configs/split_brain.py:cifar10 --workdir=runs/split`."""

import dataclasses

from ml_collections import ConfigDict

from configs import common
from ssl_jax.methods.pretext.colorization import CROP

PRESETS = common.COLOUR_PRESETS


def get_config(preset: str = "cifar10") -> ConfigDict:
    """Returns the config; `preset` is one of `common.COLOUR_PRESETS`."""
    config = common.get_config("split_brain", preset, PRESETS)
    config.optim.default = common.optimizer(
        name="adamw", learning_rate=1e-3, scaling="none", weight_decay=1e-3, warmup_epochs=0.25
    )
    if preset == "imagenet":
        # The paper gives no optimiser: Adam as for the smaller presets, for a ResNet's usual epochs.
        config.epochs, config.batch_size, config.data.size = 100, 256, 256
        config.optim.default.warmup_epochs = 5.0
        return config
    # No recipe of the authors for 32 pixels: 8x8 targets, one step from a ResNet's map. Resized crops have no border.
    view = dataclasses.replace(CROP, size=32, crop="torch", area=(0.5, 1.0))
    common.update(config.method, view=view, widths=(64,))
    if preset == "cifar10":
        config.epochs, config.method.widths = 200, (128,)
    return config
