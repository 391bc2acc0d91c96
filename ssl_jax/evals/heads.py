"""Trains a head on a backbone, frozen or together with it, on views that are drawn at random."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax

from ssl_jax import dist
from ssl_jax.augment import draws
from ssl_jax.augment.boxes import placed
from ssl_jax.augment.render import render
from ssl_jax.augment.targets import Field, drawn
from ssl_jax.augment.view import View
from ssl_jax.data import Dataset
from ssl_jax.evals.context import Network
from ssl_jax.methods.contract import Variables
from ssl_jax.models.backbone import Encoded
from ssl_jax.runtime.errors import UserError

_BLOCK = 64  # images that are answered at a time


class Encode(Protocol):
    """What the backbone makes of normalised images, after a stage or, by default, the last."""

    def __call__(self, x: jax.Array, stage: float | None = None) -> Encoded: ...


def pooled(encode: Encode, x: jax.Array) -> jax.Array:
    """One vector an image [B, D]."""
    return encode(x).pooled


def last_map(encode: Encode, x: jax.Array) -> jax.Array:
    """The last map [B, h, w, D].

    Raises:
      UserError: if the backbone has none.
    """
    found = encode(x).map
    if found is None:
        raise UserError("The backbone has no map of its images: leave dense evaluations out of --evals.")
    return found


@dataclasses.dataclass(frozen=True)
class Task:
    """What a head learns.

    Attributes:
      head: from features to answers, any tree of arrays whose rows are images; takes `train`.
      loss: of the answers and fields of the whole batch.
      features: what the head sees of the backbone.
      targets: fields that are drawn with the view, which is called 'view'; all others are given as they are.
    """

    head: nn.Module
    loss: Callable[[Any, Mapping[str, jax.Array]], jax.Array]
    features: Callable[[Encode, jax.Array], Any] = pooled
    targets: Mapping[str, Field] = dataclasses.field(default_factory=dict)


class Trained(NamedTuple):
    """A head, and the backbone that it is on."""

    params: dict[str, Any]  # 'head' and 'backbone'
    stats: dict[str, Any]  # likewise


Optimizer = Callable[[Any], optax.GradientTransformation]  # of the parameters that it is for


def in_memory(splits: tuple[Dataset, Dataset], name: str, fields: frozenset[str]) -> None:
    """Refuses data that is streamed or lacks fields.

    Raises:
      UserError: naming the evaluation.
    """
    for d in splits:
        if d.streamed or not fields <= set(d.fields):
            lacks = sorted(fields - set(d.fields))
            why = f"has no field {', '.join(lacks)}" if lacks else "is streamed"
            raise UserError(
                f"{name} needs images in memory{' with ' + ', '.join(sorted(fields)) if fields else ''}, and {d.name} "
                f"{why}: leave it out of --evals, or evaluate on other --data."
            )


class Trainer:
    """Trains heads of one kind on one backbone; compiled once for any number of images.

    A frozen backbone is in evaluation mode. The loss is that of the whole batch, whatever the number of devices.

    Args:
      network: the backbone.
      task: what its head learns.
      view: how an image is seen while training.
      optimizer: of the head.
      body: of the backbone; None: it is frozen.
      batch: images an update, rounded up to a multiple of the devices.
    """

    def __init__(
        self,
        network: Network,
        task: Task,
        view: View,
        optimizer: Optimizer,
        *,
        body: Optimizer | None = None,
        batch: int = 64,
    ) -> None:
        self._network, self._task, self._view = network, task, view
        self._mesh = network.run.mesh
        self._makers = {"head": optimizer} | ({} if body is None else {"backbone": body})
        devices = self._mesh.devices.size
        self.batch = -(-batch // devices) * devices
        self._rules: dict[str, optax.GradientTransformation] = {}
        specs = (P(), P(), P(), P(), P(dist.AXIS), P(dist.AXIS), P())
        self._step = dist.map_replicas(self._replica, self._mesh, specs, P())
        spread = dist.shardings(P(), self._mesh)  # every process gets all answers
        self._answers = jax.jit(self._answer, static_argnames="view", out_shardings=spread)

    def __call__(self, images: np.ndarray, fields: Mapping[str, np.ndarray], updates: int, seed: int) -> Trained:
        """Trains a fresh head from the network's own weights.

        Args:
          images: uint8 [N, H, W, C].
          fields: arrays [N, ...] that the loss wants.
          updates: of whole batches from an endless sequence of permutations of the images.
          seed: of the head, the order and the views.
        """
        variables = self._network.variables
        made = self._fresh(variables, images, seed)
        params = {"head": made["params"], "backbone": variables["params"]}
        stats = {"head": made.get("batch_stats", {}), "backbone": variables["batch_stats"]}
        self._rules = {name: make(params[name]) for name, make in self._makers.items()}
        moving = dist.replicate({name: params.pop(name) for name in self._rules}, self._mesh)
        fixed, stats = dist.replicate((params, stats), self._mesh)
        states = dist.replicate({name: rule.init(moving[name]) for name, rule in self._rules.items()}, self._mesh)
        for number, rows in enumerate(_order(len(images), updates, self.batch, seed)):
            batch = [dist.lay(x[rows], self._mesh, P(dist.AXIS)) for x in (images, *fields.values())]
            key = jax.random.key_data(jax.random.fold_in(jax.random.key(seed), number))
            named = dict(zip(fields, batch[1:], strict=True))
            moving, stats, states = self._step(fixed, moving, stats, states, batch[0], named, key)
        return Trained({**fixed, **moving}, stats)

    def _fresh(self, variables: Variables, images: np.ndarray, seed: int) -> Any:
        """Variables of a head."""
        size = self._view.size

        def init() -> Any:
            x = jnp.zeros((2, size, size, images.shape[-1]))
            return self._task.head.init(jax.random.key(seed), self._features(variables, x)[0], train=True)

        return jax.jit(init)()

    def answers(self, trained: Trained, images: np.ndarray, view: View | None = None) -> Any:
        """The head's answers, a tree of arrays [N, ...] on the host.

        Args:
          trained: from a call.
          images: uint8 [N, H, W, C].
          view: how they are seen; None: whole, in their own size.
        """
        block = -(-min(_BLOCK, len(images)) // self._mesh.devices.size) * self._mesh.devices.size
        found = []
        for start in range(0, len(images), block):
            part = images[start : start + block]
            padded = np.pad(part, [(0, block - len(part))] + [(0, 0)] * 3)
            laid = dist.lay(padded, self._mesh, P(dist.AXIS))
            found.append(jax.device_get(self._answers(trained, laid, view=view)))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(images)], *found)

    def _answer(self, trained: Trained, images: jax.Array, view: View | None) -> Any:
        if view is None:
            look = self._network.run.eval_view
            x = (images / 255.0 - jnp.array(look.mean)) / jnp.array(look.std)
        else:
            x = jax.vmap(lambda image: render(view, jax.random.key(0), image))(images)
        variables = {"params": trained.params["backbone"], "batch_stats": trained.stats["backbone"]}
        features, _ = self._features(variables, x)
        head = {"params": trained.params["head"], "batch_stats": trained.stats["head"]}
        return self._task.head.apply(head, features, train=False)

    def _features(self, variables: Variables, x: jax.Array, train: bool = False) -> tuple[Any, Variables]:
        """What the head sees, and the variables moved on."""
        method, moved = self._network.run.method, variables

        def encode(x: jax.Array, stage: float | None = None) -> Encoded:
            nonlocal moved
            encoded, moved = method.encode(variables, x, train=train, stage=stage)
            return encoded

        return self._task.features(encode, x), moved

    def _replica(self, fixed, moving, stats, states, images, fields, key):
        keys = dist.example_keys(jax.random.wrap_key_data(key), dist.positions(len(images)))
        x = jax.vmap(lambda k, image: render(self._view, k, image))(keys, images)
        wanted = {name: self._drawn(name, keys, images, values) for name, values in fields.items()}
        wanted = {name: jax.lax.all_gather(values, dist.AXIS, tiled=True) for name, values in wanted.items()}
        tuned = "backbone" in moving

        def loss_of(moving):
            params = {**fixed, **moving}
            variables = {"params": params["backbone"], "batch_stats": stats["backbone"]}
            features, moved = self._features(variables, x, train=tuned)
            head = {"params": params["head"], "batch_stats": stats["head"]}
            answer, new = self._task.head.apply(head, features, train=True, mutable=["batch_stats"])
            answer = jax.tree.map(lambda a: jax.lax.all_gather(a, dist.AXIS, tiled=True), answer)
            loss = dist.mean(self._task.loss(answer, wanted))
            return loss, {"head": new.get("batch_stats", {}), "backbone": moved["batch_stats"]}

        grads, stats = jax.grad(loss_of, has_aux=True)(moving)
        grads = dist.mean(grads)
        found = {name: rule.update(grads[name], states[name], moving[name]) for name, rule in self._rules.items()}
        moving = {name: optax.apply_updates(moving[name], moves) for name, (moves, _) in found.items()}
        return moving, stats, {name: state for name, (_, state) in found.items()}

    def _drawn(self, name: str, keys: jax.Array, images: jax.Array, values: jax.Array) -> jax.Array:
        """A field of the replica's rows as their views show it."""
        field, size = self._task.targets.get(name), images.shape[1:3]
        if field is None:
            return values

        def one(key: jax.Array, target: jax.Array) -> jax.Array:
            return drawn(field, self._view, placed(self._view, draws.from_key(self._view, key), *size), target)

        return jax.vmap(one)(keys, values)


def _order(count: int, updates: int, batch: int, seed: int) -> np.ndarray:
    """Rows [updates, batch]: one permutation of `count` after the other."""
    rng = np.random.default_rng(seed)
    length = updates * batch
    return np.concatenate([rng.permutation(count) for _ in range(-(-length // count))])[:length].reshape(updates, batch)
