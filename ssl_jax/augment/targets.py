"""Targets drawn with the crop and the flip of a view: masks, depth, boxes.

A method names them in `Method.targets`.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

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


def drawn(field: Field, view: View, where: Placed, target: jax.Array) -> jax.Array:
    """A target as the view sees the image.

    Args:
      field: how it is drawn.
      view: the recipe that it follows.
      where: the crop box and the flip, from `boxes.placed`.
      target: of the whole image; finite.

    Returns:
      [size, size] or [size, size, K], int32 or float32; or boxes float32 [n, 5] in pixels of the view, clipped to it.
      -1 where the crop reaches beyond the image, and in all of a box without area.
    """
    return _boxes(view, where, target) if field.kind == "boxes" else _resampled(field, view, where, target)


def _boxes(view: View, where: Placed, boxes: jax.Array) -> jax.Array:
    top, left, height, width = where.box
    boxes, size = boxes.astype(jnp.float32), view.size
    rows = jnp.clip((boxes[:, 0:4:2] - top) * (size / height), 0, size)
    columns = jnp.clip((boxes[:, 1:4:2] - left) * (size / width), 0, size)
    columns = jnp.where(where.flip, size - columns[:, ::-1], columns)
    moved = jnp.stack([rows[:, 0], columns[:, 0], rows[:, 1], columns[:, 1], boxes[:, 4]], -1)
    seen = (rows[:, 1] > rows[:, 0]) & (columns[:, 1] > columns[:, 0]) & (boxes[:, 4] >= 0)
    return jnp.where(seen[:, None], moved, UNKNOWN)


def _resampled(field: Field, view: View, where: Placed, target: jax.Array) -> jax.Array:
    whole = field.kind == "nearest" and jnp.issubdtype(target.dtype, jnp.integer)
    top, left, height, width = where.box
    rows, seen_rows = _matrix(field.kind, top, height, view.size, target.shape[0], False)
    columns, seen_columns = _matrix(field.kind, left, width, view.size, target.shape[1], where.flip)
    # As matrix products: a TPU would gather it pixel by pixel. Whole numbers below 2^24 are exact in float32.
    x = jnp.einsum("hy,yx...,wx->hw...", rows, target.astype(jnp.float32), columns, precision="highest")
    x = jnp.round(x).astype(jnp.int32) if whole else x
    seen = seen_rows[:, None] & seen_columns
    return jnp.where(seen.reshape(*seen.shape, *[1] * (x.ndim - 2)), x, UNKNOWN)


def _matrix(kind: str, start: Any, length: Any, size: int, pixels: int, flip: Any) -> tuple[jax.Array, jax.Array]:
    """Weights [size, pixels] that crop and resample one axis, and which rows of it have a pixel of the image."""
    index = jnp.arange(size)
    index = jnp.where(flip, size - 1 - index, index)
    start, length = (jnp.asarray(x).astype(jnp.int32) for x in (start, length))
    # In halves of a view's pixel, so that whole numbers decide which pixel is the nearest.
    place = (2 * index + 1) * length - (size if kind == "bilinear" else 0)
    share = (place % (2 * size)).astype(jnp.float32) / (2 * size) if kind == "bilinear" else jnp.zeros(size)
    first, second = (start + jnp.clip(place // (2 * size) + i, 0, length - 1) for i in (0, 1))
    pixel = jnp.arange(pixels)
    matrix = (1 - share[:, None]) * (pixel == first[:, None]) + share[:, None] * (pixel == second[:, None])
    return matrix, (first >= 0) & (first < pixels)


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
