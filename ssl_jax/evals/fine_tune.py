"""Fine-tuning: the whole backbone, or the stages after the first ones, trained on labelled images."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
import numpy as np
import optax

from ssl_jax import dist, losses
from ssl_jax.augment.render import render_batch
from ssl_jax.augment.view import View
from ssl_jax.evals.context import LABELLED, Context
from ssl_jax.methods.contract import Method, Variables
from ssl_jax.metrics import label_curve
from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.models.split import HALVES
from ssl_jax.runtime import progress
from ssl_jax.runtime.errors import UserError
from ssl_jax.workdir.results import Result

# It trains the backbone again, for minutes or for hours: only on request.
TITLE, NEEDS, DEFAULT, LARGE = "fine-tuning", LABELLED, False, True

# Passes over the labelled images, by their percentage. SimCLR has 60 epochs of 1 % and 30 of 10 and of 100 %
# (appendix B.5); these fit a minute or two of two CPU cores for ten thousand small images, and more do better.
EPOCHS = {1: 10, 10: 2, 100: 1}
MAX_TEST = 5000  # test images that each tuned network is measured on, evenly spaced
BATCH_SIZE = 64  # images an update
# SimCLR's for 256 images, not scaled down to this batch, as there are so few updates; the head has it as well. SwAV's
# heads learn 20 times as fast: here that left a backbone of cifar10_small at chance.
LEARNING_RATE = 0.05
_MOMENTUM = 0.9
_BLOCK = 512  # test images at a time


def measure(context: Context) -> list[Result]:
    """Accuracy of each backbone with 1, 10 and 100 % of the labels, and of copies of its first stages if asked for."""
    if any(d.streamed for d in context.images):
        raise UserError(
            f"Fine-tuning keeps its images in memory, and those of {context.images[0].name} are streamed: give it "
            "fewer with --data, raise config.data.max_gib, or leave fine_tune out of --evals."
        )
    backbone, seed = context.run.method.backbone, context.config.seed
    for count in context.frozen:
        if not 0 < count <= backbone.stages:
            raise UserError(f"--frozen has {count}, but the backbone has {backbone.stages} stages: use 1 to that.")
    train_x, train_y = context.images[0].images, context.images[0].labels
    test_x, test_y = (evenly_spaced(a, MAX_TEST) for a in (context.images[1].images, context.images[1].labels))
    starts = {name: network.variables for name, network in context.networks.items()}

    def top1(tune: Tuner, start: Variables, percent: int) -> float:
        rows = label_curve.subset(train_y, percent, [seed, 0])
        epochs = context.tune_epochs or EPOCHS[percent]
        return tune.top1(tune(start, train_x[rows], train_y[rows], epochs, seed), test_x, test_y)

    whole = _tuner(context, "pretrained")  # the untrained one is the same network
    tuners = {name: _tuner(context, name) if name == "supervised" else whole for name in starts}
    found = [
        Result(f"fine_tune/{percent}/top1", top1(tuners[name], start, percent), name)
        for percent in EPOCHS
        for name, start in starts.items()
    ]
    for count in context.frozen:
        start = transplant(backbone, starts["pretrained"], starts["untrained"], count)
        copies = {"frozen": _tuner(context, "pretrained", count), "tuned": whole}
        found += [Result(f"fine_tune/{name}{count}/top1", top1(t, start, 100)) for name, t in copies.items()]
    return found


def _tuner(context: Context, name: str, frozen: int = 0) -> "Tuner":
    run = context.networks[name].run
    return Tuner(run.method, run.eval_view, run.mesh, context.features.classes, frozen)


def transplant(backbone: Any, base: Variables, fresh: Variables, stages: int) -> Variables:
    """Weights whose stem and first `stages` stages are `base`'s and whose rest is `fresh` (Yosinski et al. 2014)."""

    def mixed(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        if set(b) == set(HALVES):  # of split_brain
            return {half: mixed(a[half], b[half]) for half in b}
        return {name: a[name] if backbone.stage_of(name) <= stages else b[name] for name in b}

    return {kind: mixed(base[kind], fresh[kind]) for kind in fresh}


def augmentation(method: Method, view: View) -> View:
    """How an image is seen while fine-tuning: the method's own view without its colours, crop and flip for most.

    Args:
      method: whose views tell how far an image may be moved (digits have no mirror image).
      view: as evaluation sees it, for size and normalisation.
    """
    off: dict[str, Any] = dict.fromkeys(("jitter", "gray", "blur", "solarize", "photometric", "pca", "hsv"), 0.0)
    return dataclasses.replace(method.primary_view(), size=view.size, mean=view.mean, std=view.std, **off)


class Tuner:
    """Fine-tunes a backbone; compiled once for any number of labelled images.

    SGD with Nesterov momentum 0.9, cosine, no warm-up, no decay (SimCLR, appendix B.5), a linear head that starts at
    zero. BatchNorm learns its statistics anew; frozen stages keep theirs. Nothing is chosen: the last epoch counts.

    Args:
      method: whose backbone it is.
      view: how evaluation sees an image.
      mesh: batches are laid over its devices.
      num_classes: number of classes.
      frozen: the stem and so many stages do not move.
    """

    def __init__(self, method: Method, view: View, mesh: Mesh, num_classes: int, frozen: int = 0) -> None:
        self._method, self._view, self._mesh, self._frozen = method, view, mesh, frozen
        self._classes = num_classes
        self._drawn = augmentation(method, view)
        self._batch = -(-BATCH_SIZE // mesh.devices.size) * mesh.devices.size
        self._sgd = optax.trace(_MOMENTUM, nesterov=True)
        in_specs = (P(), P(), P(dist.AXIS), P(dist.AXIS), P(), P())
        self._step = dist.map_replicas(self._replica, mesh, in_specs, P())
        self._logits = jax.jit(self._answers, out_shardings=dist.shardings(P(), mesh))  # every process gets all

    def __call__(self, start: Variables, images: np.ndarray, labels: np.ndarray, epochs: int, seed: int) -> Any:
        """Trains from `start` and returns the tuned network.

        Args:
          start: the network's parameters and running statistics.
          images: uint8 [N, H, W, C].
          labels: [N] integers in [0, num_classes).
          epochs: passes over the images. Updates are whole batches of an endless sequence of permutations, so that few
            images may fill less than one.
          seed: of the order and the views.
        """
        side = jax.ShapeDtypeStruct((1, self._view.size, self._view.size, images.shape[-1]), jnp.float32)
        width = jax.eval_shape(self._method.encode, start, side)[0].pooled.shape[-1]
        head = {"kernel": jnp.zeros((width, self._classes)), "bias": jnp.zeros(self._classes)}
        network = dist.replicate(({"backbone": start["params"], "head": head}, start["batch_stats"]), self._mesh)
        velocity = dist.replicate(self._sgd.init(network[0]), self._mesh)
        updates = max(1, math.ceil(len(images) * epochs / self._batch))
        order = _order(len(images), updates * self._batch, seed).reshape(updates, -1)
        with progress.counted(updates, "updates"):
            for number, rows in enumerate(order):
                batch = [dist.lay(x[rows], self._mesh, P(dist.AXIS)) for x in (images, labels.astype(np.int32))]
                key = jax.random.key_data(jax.random.fold_in(jax.random.key(seed), number))
                rate = np.float32(LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * number / updates)))
                network, velocity = self._step(network, velocity, *batch, key, rate)
                progress.tick()
        return network

    def top1(self, network: Any, images: np.ndarray, labels: np.ndarray) -> float:
        """Accuracy of a tuned network on images uint8 [M, H, W, C]."""
        block = -(-_BLOCK // self._mesh.devices.size) * self._mesh.devices.size
        correct = 0
        for start in range(0, len(images), block):
            part = images[start : start + block]
            padded = np.pad(part, [(0, block - len(part))] + [(0, 0)] * 3)
            logits = np.asarray(self._logits(network, dist.lay(padded, self._mesh, P(dist.AXIS))))[: len(part)]
            correct += int((logits.argmax(1) == labels[start : start + block]).sum())
        return correct / len(images)

    def _answers(self, network: Any, images: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.key(0), len(images))
        params, stats = network
        variables = {"params": params["backbone"], "batch_stats": stats}
        encoded, _ = self._method.encode(variables, render_batch(self._view, keys, images))
        return _linear(params["head"], encoded.pooled)

    def _replica(self, network, velocity, images, labels, key, rate):
        params, stats = network
        keys = dist.example_keys(jax.random.wrap_key_data(key), dist.positions(len(images)))
        x = render_batch(self._drawn, keys, images)

        def loss_of(params):
            variables = {"params": params["backbone"], "batch_stats": stats}
            encoded, moved = self._method.encode(variables, x, train=True, frozen=self._frozen)
            loss = losses.cross_entropy(_linear(params["head"], encoded.pooled), labels)
            return dist.mean(loss), moved["batch_stats"]

        grads, stats = jax.grad(loss_of, has_aux=True)(params)
        moves, velocity = self._sgd.update(dist.mean(grads), velocity)
        return (jax.tree.map(lambda p, m: p - rate * m, params, moves), stats), velocity


def _linear(head: Any, features: jax.Array) -> jax.Array:
    return jnp.matmul(features, head["kernel"], precision="highest") + head["bias"]


def _order(count: int, length: int, seed: int) -> np.ndarray:
    """Rows [length]: one permutation of `count` after the other."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(count) for _ in range(-(-length // count))])[:length]
