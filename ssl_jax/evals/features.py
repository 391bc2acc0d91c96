"""Frozen features of a whole data set."""

from collections.abc import Callable
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
      view: how an image is seen; should draw nothing at random.
      mesh: the batch is laid over its devices.
      batch_size: images a block, rounded up to a multiple of the devices.

    Returns:
      a function `(params, state, images uint8 [N, H, W, C]) -> float32 [N, D]`.
    """
    devices = mesh.devices.size
    block = -(-batch_size // devices) * devices
    sharding = NamedSharding(mesh, P(dist.AXIS))

    @jax.jit
    def features(params: Any, state: Any, images: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.key(0), len(images))
        return method.features(params, state, render_batch(view, keys, images))

    def extract(params: Any, state: Any, images: np.ndarray) -> np.ndarray:
        blocks = []
        for start in range(0, len(images), block):
            part = images[start : start + block]
            padded = np.pad(part, [(0, block - len(part))] + [(0, 0)] * (part.ndim - 1))
            out = features(params, state, jax.device_put(padded, sharding))
            blocks.append(np.asarray(out)[: len(part)])
        return np.concatenate(blocks)

    return extract
