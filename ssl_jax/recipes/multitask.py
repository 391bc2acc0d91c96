"""Multi-task learning.

Tasks are named after the preset, joined by plus signs: any methods that have it, for instance
`--config=multitask:cifar10_small+colorization+context_prediction`, with `+exemplar` and `+rotation` as wanted. Each
has the fields of its own config under `config.method.tasks.TASK`, and a weight, `config.method.weights.TASK`.
Evaluation sees an image as the task does that is named first.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from ssl_jax import recipes
from ssl_jax.methods import build
from ssl_jax.recipes import base
from ssl_jax.recipes.cards import Card
from ssl_jax.recipes.layer import Layer, Recipe
from ssl_jax.runtime.errors import UserError, nearest

SMALLEST = 28
TASKS = ("rotation", "context_prediction")  # where none are named: they suit every preset


def for_card(card: Card) -> Layer:
    """SGD for all that is not a task's own group; the authors' RMSProp could not be read anywhere."""
    return Layer(optim={"learning_rate": 0.1, "weight_decay": 5e-4} if card.optim is None else card.optim)


UNPUBLISHED = {
    "photo_tiles": Recipe(optim={"name": "adamw", "learning_rate": 2e-3, "scaling": "none"}),
    "cifar10": Recipe(epochs=200, batch_size=128),
    "imagenet": Recipe(epochs=100, batch_size=256, optim={"learning_rate": 0.1, "weight_decay": 1e-4}),
}
# How much a task's loss counts, where that is not 1.
WEIGHTS = {"photo_tiles": {"rotation": 3.0}}  # the slowest to learn of these tiles, which are of two textures


def with_tasks(config: ConfigDict, preset: str, tasks: Sequence[str]) -> ConfigDict:
    """Puts the tasks' own configs of the preset into a config.

    Args:
      config: of the preset, without tasks.
      preset: its name.
      tasks: names of methods; none for `TASKS`.

    Raises:
      UserError: for a name of no method, or of one that does not have the preset.
    """
    names = list(tasks or TASKS)
    configs = {name: _task(name, preset) for name in names}
    weights = {name: WEIGHTS.get(preset, {}).get(name, 1.0) for name in names}
    config.method = base.method_fields(
        "multitask",
        tasks=ConfigDict({name: task.method for name, task in configs.items()}),
        weights=ConfigDict(weights),
        lead=names[0],
    )
    own = {group: c for task in configs.values() for group, c in task.optim.items()}
    config.optim = ConfigDict(own | {"default": config.optim.default})
    if preset == "imagenet":
        # One size of stored images for all: a task that cuts squares of fixed pixels (`crop="shift"`) out of smaller
        # ones sees a smaller part of the image here than alone, or change its view.size.
        config.data.size = max((task.data.size for task in configs.values() if task.data.size), default=None)
    return config


def _task(name: str, preset: str) -> ConfigDict:
    """The task's own config of the preset."""
    if name not in build.names():
        raise UserError(f"There is no task '{name}' in ssl_jax/methods. {nearest(name, build.names())}")
    config = recipes.get_config(name, preset)
    if name == "exemplar" and not config.method.triplet:
        # The paper's; a softmax would outweigh all other losses.
        base.update(config.method, copies=2, triplet=128)
    return config
