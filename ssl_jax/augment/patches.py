"""Grids of patches, overlapping or not, and their augmentation one by one."""

import jax
import jax.numpy as jnp

from ssl_jax.augment.view import View, render_batch


def side(length: int, size: int, stride: int) -> int:
    """Patches of `size` pixels that fit along `length` pixels, `stride` pixels apart."""
    return (length - size) // stride + 1 if length >= size else 0


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
    y, x = (stride * jnp.arange(count)[:, None] + jnp.arange(size) for count in (rows, columns))
    patches = images[:, y[:, None, :, None], x[None, :, None, :]]  # [B, rows, columns, size, size, C]
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
    return jax.vmap(render_batch, (None, 0, 0))(view, own, patches)


def permuted(keys: jax.Array, patches: jax.Array) -> jax.Array:
    """Puts the patches [B, T, ...] of each image in a random order of its own; keys are one an image [B]."""
    return jax.vmap(lambda key, x: jax.random.permutation(key, x, axis=0))(keys, patches)
