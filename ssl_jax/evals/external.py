"""Evaluates a backbone that comes without its run: a file of `ssl_jax.export`, or weights of others brought in."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import optax

from ssl_jax import dist, recipes, weights
from ssl_jax.augment import recipes as views
from ssl_jax.augment.view import View
from ssl_jax.data import train_test
from ssl_jax.data.samplers import Shuffled
from ssl_jax.evals.context import Network
from ssl_jax.methods.contract import Batch, Info, Method, Variables
from ssl_jax.models.parts import initialise
from ssl_jax.run import Run
from ssl_jax.runtime.errors import UserError
from ssl_jax.state import TrainState


@dataclasses.dataclass(frozen=True)
class External(Method):
    """A network that is only looked at; it has no task of its own."""

    source: Any = None  # the method whose network it is
    view: View = views.MOCO_V2  # in which health compares an image with itself, and whose crop fine-tuning takes

    def init(self, rng: jax.Array, batch: Batch, info: Info) -> tuple[Any, Any]:
        if type(self.source) is Method:
            params, stats = initialise({"backbone": self.backbone}, rng, batch["view"])
            return params, {"stats": stats}
        return _held(self.source.variables(*self.source.init(rng, batch, info)))

    def encode(self, variables, images, **options):
        # Of another output stride, maybe.
        return dataclasses.replace(self.source, backbone=self.backbone).encode(variables, images, **options)


def _held(variables: Variables) -> tuple[Any, Any]:
    """Parameters and state of a method that has nothing but its network."""
    return {"backbone": variables["params"]}, {"stats": {"backbone": variables["batch_stats"]}}


def load(path: str, source: str, where: str | None) -> Network:
    """A backbone in a file, as evaluation takes that of a run.

    Args:
      path: of the file, as for `weights.load`.
      source: data set to evaluate on, as `config.data.source`.
      where: where to look for it, as `config.data.path`.

    Raises:
      UserError: if there is no such backbone or data set, or they do not fit each other.
    """
    found = weights.load(path)
    config = _config(found, source, where)
    mesh = dist.make_mesh()
    images, test = train_test.load(config.data)
    channels = images.image_shape[-1]
    if channels != found.takes:
        raise UserError(
            f"The images of {source} have {channels} channel(s), and the backbone in {path} wants {found.takes}: "
            "choose another --data."
        )
    recipe = views.MOCO_V2 if channels == 3 else views.ROTNET  # gray has no colours to change
    own = {name: getattr(found.view, name) for name in ("size", "mean", "std", "interpolation")}
    method = External(found.module, source=found.method, view=dataclasses.replace(recipe, **own))
    info = Info(len(images.images), config.batch_size, 1, 1, len(images.classes))

    def init() -> TrainState:
        """The network untrained."""
        drawn = method.views() | found.method.views()
        batch = {name: jnp.zeros((2, v.size, v.size, channels)) for name, v in drawn.items()}
        params, state = jax.jit(lambda: method.init(jax.random.key(config.seed), batch, info))()
        return _state(params, state)

    run = Run(config, images, test, method, mesh, info, Shuffled(info.num_examples, 1), optax.identity(), {}, init)
    return Network(run, _state(*_held(found.variables)))


def _state(params: Any, state: Any) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), jnp.zeros(2, jnp.uint32), params, state, (), {})


def _config(found: weights.Backbone, source: str, where: str | None) -> ConfigDict:
    """The evaluation's part of a config; that of the run where the file came from one."""
    config = recipes.get_config("supervised", "cifar10")
    config.method = ConfigDict({"name": "imported"})
    with config.ignore_type(), config.unlocked():
        config.eval.update(found.origin.get("config", {}).get("eval", {}))
        size = round(found.view.size / found.view.centre)
        config.data.update({"source": source, "path": where, "size": size, "eval_centre": found.view.centre})
        said = found.reading
        config.data.update({"channels": said.channels, "range": said.span, "max_pixels": said.max_pixels})
        config.data.pages = "channels" if said.stacked else "first"
    return config
