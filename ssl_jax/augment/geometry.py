"""Crops, resizing and warps of one image [H, W, C]; `vmap` makes it a batch.

As in `ops.py`, each function has its parameters given, and agrees with torchvision unless it says otherwise.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.augment.ops import nearest_level


def resize_matrix(
    start: jax.Array | int,
    length: jax.Array | int,
    size: int,
    out: int,
    *,
    interpolation: str,
    antialias: bool = True,
    flip: jax.Array | bool = False,
) -> jax.Array:
    """Weights that crop and resample one axis.

    Args:
      start: first pixel of the crop.
      length: pixels of the crop; nothing outside it is seen.
      size: pixels of the input axis.
      out: pixels of the output axis.
      interpolation: 'bilinear' or 'bicubic' (a = -0.5).
      antialias: widen the filter where the axis shrinks, as Pillow and torchvision do it; TensorFlow's resize does not.
      flip: reverse the output.

    Returns:
      matrix [out, size] whose rows sum to one.
    """
    scale = length / out
    support = jnp.maximum(scale, 1.0) if antialias else 1.0
    index = jnp.arange(out)
    index = jnp.where(flip, out - 1 - index, index)
    centre = start + (index + 0.5) * scale
    pixel = jnp.arange(size)
    distance = jnp.abs((pixel + 0.5 - centre[:, None]) / support)
    weights = _triangle(distance) if interpolation == "bilinear" else _cubic(distance)
    weights = jnp.where((pixel >= start) & (pixel < start + length), weights, 0.0)
    return weights / weights.sum(1, keepdims=True)


def _triangle(x: jax.Array) -> jax.Array:
    return jnp.maximum(1.0 - x, 0.0)


def _cubic(x: jax.Array, a: float = -0.5) -> jax.Array:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))


def resized_crop(
    image: jax.Array,
    box: tuple[jax.Array | int, ...],
    size: int,
    *,
    interpolation: str = "bilinear",
    antialias: bool = True,
    flip: jax.Array | bool = False,
    pillow: bool = False,
) -> jax.Array:
    """Crops a box and resizes it to a square, as two matrix products.

    Args:
      image: [H, W, C].
      box: top, left, height and width, pixels.
      size: side of the output, pixels.
      interpolation: 'bilinear' or 'bicubic'; bicubic overshoot is clipped to [0, 1] as the authors do.
      antialias: as of `resize_matrix`.
      flip: mirror the output left to right.
      pillow: round after each axis.

    Returns:
      [size, size, C].
    """
    top, left, height, width = box
    options: dict[str, Any] = {"interpolation": interpolation, "antialias": antialias}
    rows = resize_matrix(top, height, image.shape[0], size, **options)
    columns = resize_matrix(left, width, image.shape[1], size, **options, flip=flip)
    rows, columns = rows.astype(image.dtype), columns.astype(image.dtype)
    if pillow:
        wide = nearest_level(jnp.clip(jnp.einsum("yxc,wx->ywc", image, columns, precision="highest"), 0.0, 1.0))
        return nearest_level(jnp.clip(jnp.einsum("hy,ywc->hwc", rows, wide, precision="highest"), 0.0, 1.0))
    out = jnp.einsum("hy,yxc,wx->hwc", rows, image, columns, precision="highest")
    return jnp.clip(out, 0.0, 1.0) if interpolation == "bicubic" else out


def blurred_by_shrinking(image: jax.Array, side: jax.Array) -> jax.Array:
    """Shrinks a square image to `side` x `side` pixels and enlarges it back, bilinearly, antialiased as Pillow.

    Args:
      image: [S, S, C].
      side: pixels, 1 to S, whole; may be traced.

    Returns:
      [S, S, C].
    """
    size = len(image)
    down = resize_matrix(0, size * size / side, size, size, interpolation="bilinear")
    down = jnp.where(jnp.arange(size)[:, None] < side, down, 0.0)  # only so many rows are pixels of the small image
    up = resize_matrix(0, side, size, size, interpolation="bilinear")
    both = jnp.matmul(up, down, precision="highest")
    return jnp.einsum("ih,hwc,jw->ijc", both, image, both, precision="highest")


def window(
    image: jax.Array, top: jax.Array, left: jax.Array, size: int, *, flip: jax.Array | bool = False
) -> jax.Array:
    """Cuts a square out, exactly, as two matrix products: a TPU would gather it pixel by pixel.

    Args:
      image: [H, W, C], floating point.
      top: first row, whole; outside the image are zeros.
      left: first column.
      size: side of the output, pixels.
      flip: mirror the output left to right.

    Returns:
      [size, size, C].
    """
    index = jnp.arange(size)
    mirrored = jnp.where(flip, size - 1 - index, index)
    rows = (jnp.arange(image.shape[0]) == (top + index)[:, None]).astype(image.dtype)
    columns = (jnp.arange(image.shape[1]) == (left + mirrored)[:, None]).astype(image.dtype)
    return jnp.einsum("hy,yxc,wx->hwc", rows, image, columns, precision="highest")


def affine(image: jax.Array, matrix: jax.Array, shift: jax.Array) -> jax.Array:
    """Samples the image at affinely moved places, bilinearly, with zeros outside.

    Args:
      image: [H, W, C].
      matrix: [2, 2], takes an output offset (y, x) from the centre to an input offset.
      shift: [2], added to the input offset, pixels.

    Returns:
      [H, W, C].
    """
    h, w = image.shape[:2]
    centre = jnp.array([(h - 1) / 2, (w - 1) / 2], image.dtype)
    grid = jnp.stack(jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij"), -1).astype(image.dtype) - centre
    place = jnp.einsum("ij,hwj->hwi", matrix, grid, precision="highest") + shift + centre
    return _sampled(image, place)


def projective(image: jax.Array, matrix: jax.Array, fill: jax.Array | float) -> jax.Array:
    """Samples the image at projectively moved places, bilinearly (Pillow's PERSPECTIVE with its eight coefficients).

    Args:
      image: [H, W, C].
      matrix: [3, 3], takes an output point (x, y, 1) to an input point, homogeneous, in pixels from the upper left
        corner of the image; the centre of the first pixel is (1/2, 1/2).
      fill: value [C] of what lies outside.

    Returns:
      [H, W, C].
    """
    y, x = jnp.meshgrid(*(jnp.arange(side) + 0.5 for side in image.shape[:2]), indexing="ij")
    point = jnp.stack([x, y, jnp.ones_like(x)], -1).astype(image.dtype)
    moved = jnp.einsum("ij,hwj->hwi", matrix, point, precision="highest")
    place = moved[..., 1::-1] / moved[..., 2:] - 0.5
    return _sampled(image - fill, place) + fill


def quadrilateral_map(corners: jax.Array, size: int) -> jax.Array:
    """The projective map that takes given points to the corners of a square: an image warped by it has them there.

    Args:
      corners: points [4, 2] (x, y), pixels: where upper left, upper right, lower right and lower left come to lie.
      size: side of the square, pixels.

    Returns:
      coefficients [8]: the map [3, 3], output to input, row by row without its last entry, which is 1.
    """
    upper_left, upper_right, lower_right, lower_left = corners
    right, below = upper_right - lower_right, lower_left - lower_right
    bend = upper_left - upper_right + lower_right - lower_left
    cross = lambda a, b: a[0] * b[1] - a[1] * b[0]  # noqa: E731
    # From the unit square to the points, and by its adjugate back.
    g, h = cross(bend, below) / cross(right, below), cross(right, bend) / cross(right, below)
    (a, d), (b, e) = upper_right - upper_left + g * upper_right, lower_left - upper_left + h * lower_left
    c, f = upper_left
    back = jnp.array(
        [e - f * h, c * h - b, b * f - c * e, f * g - d, a - c * g, c * d - a * f, d * h - e * g, b * g - a * h]
    )
    return back / (a * e - b * d) * jnp.array([size] * 6 + [1, 1])


def _sampled(image: jax.Array, place: jax.Array) -> jax.Array:
    """The image [H, W, C] at places [H, W, 2] (row, column), bilinearly, with zeros outside."""
    h, w, c = image.shape
    place = jnp.clip(place, -1.0, jnp.array([h, w], place.dtype))  # zeros begin one pixel outside
    corner = jnp.clip(jnp.floor(place), max=jnp.array([h - 1, w - 1], place.dtype))
    down, right = jnp.moveaxis(place - corner, -1, 0)
    framed = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))
    # Each pixel beside its three neighbours, so that one row is looked up for a place and not four.
    table = jnp.concatenate([framed[dy : h + 1 + dy, dx : w + 1 + dx] for dy in (0, 1) for dx in (0, 1)], -1)
    index = ((corner[..., 0] + 1) * (w + 1) + corner[..., 1] + 1).astype(int)
    found = table.reshape(-1, 4 * c)[index]
    weights = ((1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right)
    parts = [w[..., None] * found[..., i * c : (i + 1) * c] for i, w in enumerate(weights)]
    return functools.reduce(jnp.add, parts)
