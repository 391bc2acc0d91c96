"""Continual learning.

The method that learns is named after the preset, joined by a plus sign: `--config=sequence:cifar10_small+barlow_twins`,
by default simclr. Its fields are `config.method.learner.FIELD`; its optimiser is that of its own preset at a constant
rate, since a cosine would leave the last tasks none. `config.method.strategy=lwf` or `ewc` is for the learner
supervised.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from ssl_jax import recipes
from ssl_jax.methods import build
from ssl_jax.recipes import base
from ssl_jax.runtime.errors import UserError, nearest

LEARNER = "simclr"


def with_tasks(config: ConfigDict, preset: str, tasks: Sequence[str]) -> ConfigDict:
    """Puts the learner's own config of the preset into a config.

    Args:
      config: of the preset, without a learner.
      preset: its name.
      tasks: the name of the learner, or nothing.

    Raises:
      UserError: for several names, a name of no method, or of one that does not have the preset.
    """
    if len(tasks) > 1:
        raise UserError(f"sequence:{preset}+{'+'.join(tasks)} names {len(tasks)} learners: name one.")
    name = tasks[0] if tasks else LEARNER
    if name not in build.names():
        raise UserError(f"There is no learner '{name}' in ssl_jax/methods. {nearest(name, build.names())}")
    own = recipes.get_config(name, preset)
    strategy = "finetune" if name == "supervised" else "distill"
    width = min(2048, 8 * own.model.width)  # of the predictor: as wide as a small network's projector
    config.method = base.method_fields("sequence", learner=own.method, strategy=strategy, hidden=width)
    config.optim = own.optim
    for group in config.optim:
        config.optim[group].schedule = "constant"
    config.epochs, config.batch_size = own.epochs, own.batch_size
    return config
