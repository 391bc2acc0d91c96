"""Grids of patches, overlapping or not, and their augmentation one by one."""

from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.augment import geometry
from ssl_jax.augment.render import render_batch
from ssl_jax.augment.view import View
from ssl_jax.runtime.errors import UserError

LEAST = 4  # pixels along a side of a patch in which there is something to be seen
MIXED = 8  # images at least whose patches BatchNorm mixes


def side(length: int, size: int, stride: int) -> int:
    """Patches of `size` pixels that fit along `length` pixels, `stride` pixels apart."""
    return (length - size) // stride + 1 if length >= size else 0


def check_size(height: int, width: int, cells: int) -> None:
    """Refuses, with a `UserError`, images whose `cells` x `cells` patches would show nothing, however enlarged."""
    if min(height, width) < LEAST * cells:
        raise UserError(
            f"Images of {height} x {width} pixels are too small for {cells} x {cells} patches, each of {LEAST} pixels "
            "at least: choose larger images, or another method."
        )


def check_mixed(backbone: Any, images: int) -> None:
    """Refuses a BatchNorm that would tell a patch of the others of its image.

    Args:
      backbone: what sees the patches of all images of a batch as rows of one.
      images: in a batch.

    Raises:
      UserError: if fewer than `MIXED` images share statistics.
    """
    if getattr(backbone, "norm", "") == "batch" and images // backbone.bn_groups < MIXED:
        raise UserError(
            f"config.model.bn_groups is {backbone.bn_groups}, so that BatchNorm has statistics of "
            f"{images // backbone.bn_groups} image(s), and a patch would know of the others of its image: leave "
            f"{MIXED} images to a group, or raise config.batch_size."
        )


def grid(images: jax.Array, size: int, stride: int) -> jax.Array:
    """Cuts images into a grid of square patches; what does not fill a patch at the lower right is left out.

    Args:
      images: [B, H, W, C].
      size: side of a patch, pixels.
      stride: from one patch to the next, pixels; below `size` they overlap.

    Returns:
      [B, T, size, size, C], row by row.
    """
    rows, columns = (side(length, size, stride) for length in images.shape[1:3])
    if not rows * columns:
        return jnp.zeros((len(images), 0, size, size, images.shape[-1]), images.dtype)
    # By slices, which a TPU moves whole, where an index of pixels would fetch them one by one.
    bands = jnp.stack([images[:, stride * y : stride * y + size] for y in range(rows)], 1)
    patches = jnp.stack([bands[:, :, :, stride * x : stride * x + size] for x in range(columns)], 2)
    return patches.reshape(len(images), rows * columns, size, size, images.shape[-1])


def render_patches(view: View, keys: jax.Array, patches: jax.Array) -> jax.Array:
    """Draws a view of every patch on its own.

    Args:
      view: the recipe of a patch; `crop="shift"` with `pad=0` cuts a smaller square out of it.
      keys: one key an image [B].
      patches: [B, T, h, w, C] in [0, 1].

    Returns:
      [B, T, view.size, view.size, C], normalised.
    """
    count = patches.shape[1]
    own = jax.vmap(lambda key: jax.random.split(key, count))(keys)
    drawn = render_batch(view, own.reshape(-1), patches.reshape(-1, *patches.shape[2:]))
    return drawn.reshape(*patches.shape[:2], *drawn.shape[1:])


def permuted(keys: jax.Array, patches: jax.Array) -> jax.Array:
    """Puts the patches [B, T, ...] of each image in a random order of its own; keys are one an image [B]."""
    return jax.vmap(lambda key, x: jax.random.permutation(key, x, axis=0))(keys, patches)


def cut(keys: jax.Array, cells: jax.Array, size: int, aberration: int = 0) -> jax.Array:
    """Cuts a smaller square out of every cell, at a random place of its own.

    Args:
      keys: one key an image [B].
      cells: [B, T, h, h, C].
      size: side of the square, pixels; at most h - `aberration`.
      aberration: each channel is cut up to so many pixels further down and right, in whole pixels, so that the colour
        fringes of a lens do not tell where in the image a square was.

    Returns:
      [B, T, size, size, C].
    """
    room = cells.shape[2] - size - aberration

    def one(key: jax.Array, cell: jax.Array) -> jax.Array:
        place, apart = jax.random.split(key)
        corner = jax.random.randint(place, (2,), 0, room + 1)
        if not aberration:
            return geometry.window(cell, corner[0], corner[1], size)
        shifts = corner + jax.random.randint(apart, (cell.shape[-1], 2), 0, aberration + 1)
        channels = [geometry.window(cell[..., c : c + 1], s[0], s[1], size) for c, s in enumerate(shifts)]
        return jnp.concatenate(channels, -1)

    own = jax.vmap(lambda key: jax.random.split(key, cells.shape[1]))(keys)
    return jax.vmap(jax.vmap(one))(own, cells)


def sometimes_shrunk(keys: jax.Array, patches: jax.Array, probability: float, smallest: int) -> jax.Array:
    """Shrinks some of the patches [B, T, h, h, C], and enlarges them back.

    The side is from `smallest` to below h - 1 pixels; what is drawn evenly is the number of pixels (train.py).
    """
    count, size = patches.shape[1:3]

    def one(key: jax.Array, x: jax.Array) -> jax.Array:
        toss, draw = jax.random.split(key)
        area = jax.random.uniform(draw, (count,), minval=smallest**2, maxval=(size - 1) ** 2)
        sides = jnp.clip(jnp.sqrt(area).astype(int), smallest, size - 1)
        chosen = jax.random.bernoulli(toss, probability, (count, 1, 1, 1))
        return jnp.where(chosen, jax.vmap(geometry.blurred_by_shrinking)(x, sides), x)

    return jax.vmap(one)(keys, patches)
