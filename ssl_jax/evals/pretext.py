"""The method's own task on images it was not trained on."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from ssl_jax import dist, streams
from ssl_jax.augment.render import render_views
from ssl_jax.evals.features import spread
from ssl_jax.methods.contract import Info, Method, Metric, flat
from ssl_jax.runtime.errors import UserError

MAX_IMAGES = 2048  # in two views and two networks each, as BYOL has it, some twenty seconds of two CPU cores


def measurer(method: Method, info: Info, mesh: Mesh, batch_size: int) -> Callable[..., dict[str, float]]:
    """Compiles the method's loss without training: running statistics, and nothing is moved.

    Views are rendered as in training, from a fixed key, and batches are of the training's size, which contrastive
    losses depend on. The images are at most `MAX_IMAGES` (or one batch), evenly spaced and shuffled; the last partial
    batch is dropped, and fewer images than one batch are repeated to fill it.

    Args:
      method: whose loss is wanted.
      info: of the run.
      mesh: batches are laid over its devices.
      batch_size: images a batch, a multiple of the devices.

    Returns:
      a function `(params, state, step, images uint8 [N, H, W, C], labels [N]) -> {'loss' and the method's metrics}`,
      means over all images, as `contract.flat` names them.

    Raises:
      UserError: if the loss is about the training images themselves (memory banks, one class an image).
    """
    if "index" in method.needs:
        raise UserError(
            f"The loss of {type(method).__name__} compares training images with what it stored of them, so that it "
            "has no meaning for test images: leave pretext out of --evals."
        )
    views, chance = method.views(), method.chance(info)

    def replica(params, state, step, images, labels, number):
        place = number * batch_size + dist.positions(len(images))
        rng = jax.random.key(0)
        batch = render_views(views, rng, place, images) | {"position": dist.positions(len(images)), "label": labels}
        key = jax.random.fold_in(jax.random.fold_in(rng, streams.loss(views)), number)
        loss, (_, aux) = method.loss(params, state, batch, rng=key, step=step, info=info, train=False)
        return dist.mean(flat({"loss": Metric(loss, chance, "loss"), **aux.metrics}))

    in_specs = (P(), method.specs(), P(), P(dist.AXIS), P(dist.AXIS), P())
    mapped = dist.map_replicas(replica, mesh, in_specs, P())
    sharding = NamedSharding(mesh, P(dist.AXIS))

    def measure(params: Any, state: Any, step: jax.Array, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        blocks = _blocks(len(images), batch_size)
        found = []
        for number, rows in enumerate(blocks):
            on_device = jax.device_put((images[rows], labels[rows]), sharding)
            found.append(jax.device_get(mapped(params, state, step, *on_device, np.int32(number))))
        return {name: float(np.mean([values[name] for values in found])) for name in found[0]}

    return measure


def _blocks(count: int, batch_size: int) -> np.ndarray:
    """Rows [batches, images] of the evaluated images."""
    rows = spread(np.random.default_rng(0).permutation(count), max(MAX_IMAGES, batch_size))
    rows = np.resize(rows, max(batch_size, len(rows)))
    return rows[: len(rows) // batch_size * batch_size].reshape(-1, batch_size)
