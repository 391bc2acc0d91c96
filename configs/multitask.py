"""Multi-task learning. `python -m ssl_jax.main --config=configs/multitask.py:cifar10+TASK+TASK --workdir=runs/multi`.

Tasks are named after the preset, joined by plus signs: any methods that have it, for instance
`configs/multitask.py:cifar10_small+colorization+context_prediction`, with `+exemplar` and `+rotation` as wanted. Each
has the fields of its own config under `config.method.tasks.TASK`, and a weight, `config.method.weights.TASK`.
Evaluation sees an image as the task does that is named first.
"""

import importlib

from ml_collections import ConfigDict

from configs import common
from ssl_jax.methods import build
from ssl_jax.runtime.errors import UserError, nearest

PRESETS = common.LARGE_PRESETS
TASKS = ("rotation", "context_prediction")  # where none are named: they suit every preset


def _task(name: str, preset: str) -> ConfigDict:
    """The task's own config of the preset."""
    if name not in build.names():
        raise UserError(f"There is no task '{name}' in ssl_jax/methods. {nearest(name, build.names())}")
    config = importlib.import_module(f"configs.{name}").get_config(preset)
    if name == "exemplar" and not config.method.triplet:
        common.update(config.method, copies=2, triplet=128)  # the paper's; a softmax would outweigh all other losses
    return config


def get_config(preset: str = "cifar10") -> ConfigDict:
    """Returns the config; `preset` is one of `PRESETS`, with tasks joined by plus signs."""
    preset, *names = preset.split("+")
    config = common.get_config("multitask", preset, PRESETS)
    names = names or list(TASKS)
    tasks = {name: _task(name, preset) for name in names}
    config.method = common.method_fields(
        "multitask",
        tasks=ConfigDict({name: task.method for name, task in tasks.items()}),
        weights=ConfigDict({name: 1.0 for name in tasks}),
        lead=names[0],
    )
    # SGD for all that is not a task's own group; the authors' RMSProp could not be read anywhere.
    config.optim = ConfigDict({group: c for task in tasks.values() for group, c in task.optim.items()})
    if preset == "photo_tiles":
        if "rotation" in tasks:
            config.method.weights.rotation = 3.0  # the slowest to learn of these tiles, which are of two textures
        config.optim.default = common.optimizer(name="adamw", learning_rate=2e-3, scaling="none")
    elif preset == "cifar10_small":
        config.optim.default = common.optimizer(learning_rate=0.12, scaling="none", weight_decay=5e-4, per_epoch=True)
    else:
        config.optim.default = common.optimizer(learning_rate=0.1, weight_decay=5e-4)
        if preset == "cifar10":
            config.epochs, config.batch_size = 200, 128
        elif preset == "imagenet":
            config.epochs, config.batch_size = 100, 256
            # One size of stored images for all: a task that cuts squares of fixed pixels (`crop="shift"`) out of
            # smaller ones sees a smaller part of the image here than alone, or change its view.size.
            config.data.size = max((task.data.size for task in tasks.values() if task.data.size), default=None)
            config.optim.default.weight_decay = 1e-4
    return config
