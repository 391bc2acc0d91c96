"""Frozen features of a whole data set."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from ssl_jax import dist
from ssl_jax.augment.view import View, render_batch
from ssl_jax.methods import Method


def spread(rows: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` of the rows, evenly spaced (images usually come sorted by class)."""
    return rows[np.linspace(0, len(rows) - 1, min(limit, len(rows))).astype(int)]


def extractor(method: Method, view: View, mesh: Mesh, batch_size: int = 512) -> Callable[..., np.ndarray]:
    """Compiles the frozen backbone once for any number of images.

    Args:
      method: whose `features` are wanted.
      view: how an image is seen.
      mesh: the batch is laid over its devices.
      batch_size: images a block, rounded up to a multiple of the devices.

    Returns:
      a function `(params, state, images uint8 [N, H, W, C], draw=0) -> float32 [N, D]`. What the view draws at random
      for an image depends on `draw` and the image's place alone.
    """
    extract = _compiled(method, view, mesh, batch_size, (None,))
    return lambda *args, **kwargs: extract(*args, **kwargs)[0]


def stage_extractor(method: Method, view: View, mesh: Mesh, batch_size: int = 512) -> Callable[..., list[np.ndarray]]:
    """As `extractor`, for a list with the features after each stage of the backbone, the last being its output."""
    stages = (*range(1, method.backbone.stages), None)
    # One program: what the stages have in common is computed once.
    return _compiled(method, view, mesh, batch_size, stages)


def _compiled(
    method: Method, view: View, mesh: Mesh, batch_size: int, stages: Sequence[int | None]
) -> Callable[..., list[np.ndarray]]:
    devices = mesh.devices.size
    block = -(-batch_size // devices) * devices
    sharding = NamedSharding(mesh, P(dist.AXIS))

    @jax.jit
    def features(params: Any, state: Any, images: jax.Array, places: jax.Array, draw: int) -> list[jax.Array]:
        keys = dist.example_keys(jax.random.fold_in(jax.random.key(0), draw), places)
        x = render_batch(view, keys, images)
        return [method.features(params, state, x, stage) for stage in stages]

    def extract(params: Any, state: Any, images: np.ndarray, draw: int = 0) -> list[np.ndarray]:
        blocks: list[list[np.ndarray]] = [[] for _ in stages]
        for start in range(0, max(len(images), 1), block):  # no image at all still has a width
            part = images[start : start + block]
            padded = np.pad(part, [(0, block - len(part))] + [(0, 0)] * (part.ndim - 1))
            places = np.arange(start, start + block)
            out = features(params, state, *jax.device_put((padded, places), sharding), draw)
            for parts, x in zip(blocks, out, strict=True):
                parts.append(np.asarray(x)[: len(part)])
        return [np.concatenate(parts) for parts in blocks]

    return extract
