"""Frozen features of a whole data set."""

from collections.abc import Callable, Iterator
import functools
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
import numpy as np

from ssl_jax import dist
from ssl_jax.augment.view import View, render_batch
from ssl_jax.data.stream import Images, Pass
from ssl_jax.feed import streamed
from ssl_jax.methods import Method


def spread(rows: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` of the rows, evenly spaced (images usually come sorted by class)."""
    return rows[np.linspace(0, len(rows) - 1, min(limit, len(rows))).astype(int)]


def extractor(
    method: Method,
    view: View,
    mesh: Mesh,
    batch_size: int = 512,
    *,
    workers: int = 0,
    between: Callable[[], None] = lambda: None,
) -> Callable[..., np.ndarray]:
    """Compiles the frozen backbone once for any number of images.

    Args:
      method: whose `features` are wanted.
      view: how an image is seen; should draw nothing at random.
      mesh: the batch is laid over its devices.
      batch_size: images a block, rounded up to a multiple of the devices.
      workers: processes that decode streamed images; 0: threads of this one.
      between: called after each block; may raise, to end it early.

    Returns:
      a function `(params, state, images) -> float32 [N, D]`; images are uint8 [N, H, W, C], or those of a streamed
      data set, of which a few blocks are in memory at a time.
    """
    devices = mesh.devices.size
    block = -(-batch_size // devices) * devices

    # Every process gets all features.
    @functools.partial(jax.jit, static_argnames="cropped", out_shardings=dist.shardings(P(), mesh))
    def features(params: Any, state: Any, images: jax.Array, cropped: bool) -> jax.Array:
        keys = jax.random.split(jax.random.key(0), len(images))
        return method.features(params, state, render_batch(view, keys, images, cropped=cropped))

    def parts(images: np.ndarray | Images) -> Iterator[jax.Array]:
        if isinstance(images, Images):
            nothing = np.full(len(images), -1)
            plan = Pass(np.zeros(2, np.uint32), len(images), block)
            for crops, _, _ in streamed(images, nothing, {"view": view}, plan, mesh, 1, workers):
                yield crops["view"][0]
        else:
            for start in range(0, len(images), block):
                part = images[start : start + block]
                padded = np.pad(part, [(0, block - len(part))] + [(0, 0)] * (part.ndim - 1))
                yield dist.lay(padded, mesh, P(dist.AXIS))

    def extract(params: Any, state: Any, images: np.ndarray | Images) -> np.ndarray:
        cropped = isinstance(images, Images)
        blocks = []
        for part in parts(images):
            blocks.append(np.asarray(features(params, state, part, cropped=cropped)))
            between()
        return np.concatenate(blocks)[: len(images)]

    return extract
