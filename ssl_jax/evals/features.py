"""Frozen features of a whole data set."""

from collections.abc import Callable, Iterator, Sequence
import functools
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
import numpy as np

from ssl_jax import dist
from ssl_jax.augment.render import render_batch
from ssl_jax.augment.view import View
from ssl_jax.data.cutter import Pass
from ssl_jax.data.lazy import Images
from ssl_jax.data.loader import streamed
from ssl_jax.methods.contract import Method
from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.runtime import progress


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
      method: whose network's features are wanted.
      view: how an image is seen.
      mesh: the batch is laid over its devices.
      batch_size: images a block, rounded up to a multiple of the devices.
      workers: processes that decode streamed images; 0: threads of this one.
      between: called after each block; may raise, to end it early.

    Returns:
      a function `(params, state, images, draw=0) -> float32 [N, D]`; images are uint8 [N, H, W, C], or those of a
      streamed data set, of which a few blocks are in memory at a time. What the view draws at random for an image
      depends on `draw` and the image's place alone.
    """
    extract = _compiled(method, view, mesh, batch_size, workers, (None,), between)
    return lambda *args, **kwargs: extract(*args, **kwargs)[0]


def stage_extractor(
    method: Method, view: View, mesh: Mesh, batch_size: int = 512, *, workers: int = 0
) -> Callable[..., list[np.ndarray]]:
    """As `extractor`, for a list with the features after each stage of the backbone, the last being its output.

    The function that it returns has a further argument `most`: of stages before the last, so many evenly spaced images
    are kept, those that `spread` takes; None for all.
    """
    stages = (*range(1, method.backbone.stages), None)
    # One program: what the stages have in common is computed once.
    return _compiled(method, view, mesh, batch_size, workers, stages)


def _compiled(
    method: Method,
    view: View,
    mesh: Mesh,
    batch_size: int,
    workers: int,
    stages: Sequence[int | None],
    between: Callable[[], None] = lambda: None,
) -> Callable[..., list[np.ndarray]]:
    block = -(-batch_size // mesh.devices.size) * mesh.devices.size

    # Every process gets all features.
    @functools.partial(jax.jit, static_argnames="cropped", out_shardings=dist.shardings(P(), mesh))
    def features(params: Any, state: Any, images: jax.Array, places: jax.Array, draw: int, cropped: bool) -> Any:
        keys = dist.example_keys(jax.random.fold_in(jax.random.key(0), draw), places)
        x = render_batch(view, keys, images, cropped=cropped)
        variables = method.variables(params, state)
        return [method.encode(variables, x, stage=stage)[0].pooled for stage in stages]

    def extract(
        params: Any, state: Any, images: np.ndarray | Images, draw: int = 0, most: int | None = None
    ) -> list[np.ndarray]:
        cropped, rows = isinstance(images, Images), np.arange(len(images))
        kept = [rows if most is None else evenly_spaced(rows, most)] * (len(stages) - 1) + [rows]
        found: list[np.ndarray] = []
        with progress.counted(len(images), "images"):
            for number, part in enumerate(_blocks(images, view, mesh, block, workers)):
                first = number * block
                progress.tick(min(block, len(images) - first))
                places = dist.lay(np.arange(first, first + block), mesh, P(dist.AXIS))
                new = jax.device_get(features(params, state, part, places, draw, cropped=cropped))
                # In place: a list of blocks and what is made of them would be in memory together.
                found = found or [np.empty((len(k), x.shape[1]), x.dtype) for k, x in zip(kept, new, strict=True)]
                for out, k, x in zip(found, kept, new, strict=True):
                    low, high = np.searchsorted(k, (first, first + block))
                    out[low:high] = x[k[low:high] - first]
                between()
        return found

    return extract


def _blocks(images: np.ndarray | Images, view: View, mesh: Mesh, block: int, workers: int) -> Iterator[jax.Array]:
    """The images on the devices, `block` at a time; the last ones are filled up. Streamed ones come as crops."""
    if isinstance(images, Images) and len(images):
        nothing = np.full(len(images), -1)
        plan = Pass(np.zeros(2, np.uint32), len(images), block)
        for crops, _, _ in streamed(images, nothing, {"view": view}, plan, mesh, 1, workers):
            yield crops["view"][0]
        return
    if isinstance(images, Images):
        images = np.zeros((0, view.size, view.size, 3), np.uint8)
    for start in range(0, max(len(images), 1), block):  # the features of no image at all still have a width
        part = images[start : start + block]
        padded = np.pad(part, [(0, block - len(part))] + [(0, 0)] * (part.ndim - 1))
        yield dist.lay(padded, mesh, P(dist.AXIS))
