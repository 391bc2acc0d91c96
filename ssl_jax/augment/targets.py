"""Targets drawn with the crop and the flip of a view: masks, depth, boxes.

A method names them in `Method.targets`. The code is the same for JAX, on the device, and for NumPy, where streamed
images are cropped while they are decoded; whole numbers decide which pixel is seen, so that both see the same one.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment import draws
from ssl_jax.augment.boxes import Placed, placed
from ssl_jax.augment.render import view_keys
from ssl_jax.augment.view import View
from ssl_jax.runtime.errors import UserError, nearest

KINDS = ("nearest", "bilinear", "boxes")
UNKNOWN = -1  # of pixels beyond the image, and of boxes that the crop does not show


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of the data set, seen as a view sees the image.

    Attributes:
      name: of the field of the data set.
      like: name of the view whose crop box and flip it takes.
      kind: 'nearest' for [H, W] or [H, W, K] of which each pixel stays what it is, such as a mask of classes;
        'bilinear' for [H, W] or [H, W, K] that may be mixed, such as depth; 'boxes' for [n, 5] with top, left, bottom,
        right in pixels and a class, all -1 in rows that are no box.
    """

    name: str
    like: str
    kind: str = "nearest"

    def check(self, name: str, views: dict[str, View]) -> None:
        """Refuses what cannot be drawn.

        Args:
          name: of the target.
          views: of the method.

        Raises:
          UserError: with what to change.
        """
        if self.kind not in KINDS:
            raise UserError(f"The target '{name}' is of the kind '{self.kind}'. {nearest(self.kind, KINDS)}")
        if self.like not in views:
            raise UserError(
                f"The target '{name}' is drawn like '{self.like}', which is no view. {nearest(self.like, views)}"
            )
        if views[self.like].affine:
            raise UserError(
                f"config.method.{self.like}.affine is {views[self.like].affine}, but the target '{name}' follows a "
                f"crop and a flip alone: set config.method.{self.like}.affine to 0."
            )


def drawn(field: Field, view: View, where: Placed, target: Any) -> Any:
    """A target as the view sees the image.

    Args:
      field: how it is drawn.
      view: the recipe that it follows.
      where: the crop box and the flip, from `boxes.placed`.
      target: of the whole image, in JAX or in NumPy as `where` is; finite.

    Returns:
      [size, size] or [size, size, K], int32 or float32; or boxes float32 [n, 5] in pixels of the view, clipped to it.
      -1 where the crop reaches beyond the image, and in all of a box without area.
    """
    return _boxes(view, where, target) if field.kind == "boxes" else _resampled(field, view, where, target)


def _boxes(view: View, where: Placed, boxes: Any) -> Any:
    xp = boxes.__array_namespace__()
    top, left, height, width = where.box
    boxes, size = boxes.astype(np.float32), view.size
    rows = xp.clip((boxes[:, 0:4:2] - top) * (size / height), 0, size)
    columns = xp.clip((boxes[:, 1:4:2] - left) * (size / width), 0, size)
    columns = xp.where(where.flip, size - columns[:, ::-1], columns)
    moved = xp.stack([rows[:, 0], columns[:, 0], rows[:, 1], columns[:, 1], boxes[:, 4]], -1).astype(np.float32)
    seen = (rows[:, 1] > rows[:, 0]) & (columns[:, 1] > columns[:, 0]) & (boxes[:, 4] >= 0)
    return xp.where(seen[:, None], moved, np.float32(UNKNOWN))


class _Taps(NamedTuple):
    """The two pixels of one axis of the image between which each pixel of the view lies."""

    first: Any  # int [size]
    second: Any  # int [size]
    share: Any  # float [size], of the second
    inside: Any  # bool [size], whether there is such a pixel


def _resampled(field: Field, view: View, where: Placed, target: Any) -> Any:
    xp = target.__array_namespace__()
    whole = np.issubdtype(target.dtype, np.integer)
    top, left, height, width = where.box
    rows = _taps(xp, field.kind, top, height, view.size, target.shape[0], False)
    columns = _taps(xp, field.kind, left, width, view.size, target.shape[1], where.flip)
    x = target.astype(np.float32) if not whole or field.kind == "bilinear" else target.astype(np.int32)
    x = _along(xp, rows, x)
    x = xp.swapaxes(_along(xp, columns, xp.swapaxes(x, 0, 1)), 0, 1)
    inside = rows.inside[:, None] & columns.inside
    return xp.where(inside.reshape(*inside.shape, *[1] * (x.ndim - 2)), x, xp.asarray(UNKNOWN, x.dtype))


def _taps(xp: Any, kind: str, start: Any, length: Any, size: int, pixels: int, flip: Any) -> _Taps:
    index = xp.arange(size)
    index = xp.where(flip, size - 1 - index, index)
    start, length = (xp.asarray(x).astype(np.int32) for x in (start, length))
    # In halves of a view's pixel, so that the division is one of whole numbers.
    doubled = (2 * index + 1) * length - (size if kind == "bilinear" else 0)
    before = doubled // (2 * size)
    share = (doubled % (2 * size)).astype(np.float32) / (2 * size) if kind == "bilinear" else xp.zeros(size, np.float32)
    last = length - 1
    first, second = (start + xp.clip(x, 0, last) for x in (before, before + 1))
    inside = (first >= 0) & (first < pixels)
    return _Taps(xp.clip(first, 0, pixels - 1), xp.clip(second, 0, pixels - 1), share, inside)


def _along(xp: Any, taps: _Taps, x: Any) -> Any:
    """The first axis [N, ...] to [size, ...]."""
    share = taps.share.reshape(-1, *[1] * (x.ndim - 1))
    if xp is np:
        mixed = x[taps.first] if x.dtype == np.int32 else (1 - share) * x[taps.first] + share * x[taps.second]
        return mixed
    # As a matrix product: a TPU would gather it pixel by pixel. Whole numbers below 2^24 are exact in float32.
    pixel = jnp.arange(len(x))
    matrix = (1 - taps.share[:, None]) * (pixel == taps.first[:, None]) + taps.share[:, None] * (
        pixel == taps.second[:, None]
    )
    out = jnp.einsum("yn,n...->y...", matrix, x.astype(jnp.float32), precision="highest")
    return jnp.round(out).astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.integer) else out


def draw_targets(
    targets: Mapping[str, Field],
    views: Mapping[str, View],
    rng: jax.Array,
    positions: jax.Array,
    size: tuple[int, int],
    fields: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
    """Draws the targets of a batch, on the device.

    Args:
      targets: name to what is drawn.
      views: of the method, as `render_views` takes them with the same key.
      rng: a key that all replicas share.
      positions: positions [B, ...] in the global batch.
      size: height and width of the images, pixels.
      fields: name to the rows [B, ..., H, W] and the like of a field of the data set.

    Returns:
      name to target [B, ..., size, size] and the like.
    """
    batch = {}
    for name, field in targets.items():
        view, lead = views[field.like], positions.ndim
        (keys,) = view_keys(views, [field.like], rng, positions)
        whole = fields[field.name]

        def one(key: jax.Array, target: jax.Array, field: Field = field, view: View = view) -> jax.Array:
            return drawn(field, view, placed(view, draws.from_key(view, key), *size), target)

        found = jax.vmap(one)(keys, whole.reshape(-1, *whole.shape[lead:]))
        batch[name] = found.reshape(*positions.shape, *found.shape[1:])
    return batch
