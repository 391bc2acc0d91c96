"""Context encoder. `python -m ssl_jax.main --config=configs/context_encoder.py:cifar10 --workdir=runs/context`."""

import dataclasses

from ml_collections import ConfigDict

from configs import common
from ssl_jax.methods.pretext.context_encoder import CROP

PRESETS = common.LARGE_PRESETS


def get_config(preset: str = "cifar10") -> ConfigDict:
    """Returns the config; `preset` is one of `common.LARGE_PRESETS`."""
    config = common.get_config("context_encoder", preset, PRESETS)
    # The authors' Adam for both, whose generator learns ten times as fast (README and train.lua).
    adam = {"name": "adamw", "scaling": "none", "schedule": "constant", "b1": 0.5}
    config.optim.default = common.optimizer(learning_rate=2e-3, **adam)
    config.optim.discriminator = common.optimizer(learning_rate=2e-4, **adam)
    if preset == "imagenet":
        config.data.size = 350
        config.epochs, config.batch_size = 500, 64
        config.model.conv_init = "dcgan"  # N(0, 0.02) as in all of their networks
        return config
    # No recipe of the authors for 32 pixels: their proportions, a quarter of the sizes.
    view = dataclasses.replace(CROP, size=32, crop="torch", area=(0.5, 1.0))
    common.update(config.method, view=view, overlap=1, widths=(64, 32), judge=(32, 64))
    for group in ("default", "discriminator"):
        config.optim[group].warmup_epochs = 0.25
    if preset == "photo_tiles":
        common.update(config.method, widths=(32, 16), judge=(16, 32))
    elif preset == "fashion_mnist":
        common.update(config.method, view=dataclasses.replace(view, size=28), fill=(0.286,))
    elif preset == "cifar10":
        common.update(config.method, widths=(256, 128), judge=(64, 128))
        config.epochs, config.batch_size = 200, 64
    return config
