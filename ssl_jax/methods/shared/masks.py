"""Masks over the patches of an image: which are hidden from a student.

A mask follows from the step's key and the crop's number in the global batch alone, and needs no loop: the number of
masked patches is always the one that was asked for.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import dist
from ssl_jax.models.transformer import draw_ranks

_BLOCKS = 8  # rectangles a mask is made of, at most; what they do not cover is filled up at random


def crop_numbers(positions: jax.Array, count: int) -> jax.Array:
    """Numbers [n, count] of an image's crops among all of the global batch."""
    return positions[:, None] * count + jnp.arange(count)


def block_masks(
    keys: jax.Array, counts: jax.Array, grid: tuple[int, int], *, least: int = 4, roll: bool = False
) -> jax.Array:
    """Masks of rectangles, after BEiT's (Bao et al. 2022): each covers a part of what is still to be masked.

    The area of a rectangle is uniform between `least` and what is left, its aspect log-uniform between 0.3 and 3.3,
    its place uniform. BEiT tries again where a rectangle covers too much or nothing new, and may end up short; here
    the last one is cut, row by row.

    Args:
      keys: one a crop [n].
      counts: patches to mask [n].
      grid: rows and columns of patches.
      least: area of the smallest rectangle.
      roll: shift the mask by a uniform number of rows and columns, around the edges: without it the patches at the
        edges are masked far more rarely than those in the middle (DINOv3's option).

    Returns:
      bool [n, rows columns].
    """
    rows, columns = grid

    def one(key: jax.Array, count: jax.Array) -> jax.Array:
        u = jax.random.uniform(key, (_BLOCKS + 1, 4))
        left, inside = count.astype(jnp.float32), []
        for area, aspect, top, side in u[:-1]:
            size = least + area * (jnp.maximum(left, least) - least)
            ratio = jnp.exp(jnp.log(0.3) + aspect * (jnp.log(1 / 0.3) - jnp.log(0.3)))
            h = jnp.clip(jnp.round(jnp.sqrt(size * ratio)), 1, max(rows - 1, 1))
            w = jnp.clip(jnp.round(jnp.sqrt(size / ratio)), 1, max(columns - 1, 1))
            y, x = jnp.floor(top * (rows - h + 1)), jnp.floor(side * (columns - w + 1))
            r, c = jnp.arange(rows)[:, None], jnp.arange(columns)
            inside.append((r >= y) & (r < y + h) & (c >= x) & (c < x + w))
            left = jnp.maximum(left - h * w, 0.0)
        covered = jnp.stack([*inside, jnp.ones((rows, columns), bool)])
        first = jnp.argmax(covered, 0)  # the rectangle that covers a patch first
        within = jnp.arange(rows * columns).reshape(rows, columns)
        chance = draw_ranks(jax.random.fold_in(key, 0), rows * columns).reshape(rows, columns)
        order = first * rows * columns + jnp.where(first < _BLOCKS, within, chance)
        mask = (jnp.argsort(jnp.argsort(order.reshape(-1))) < count).reshape(rows, columns)
        if roll:
            down, along = jnp.floor(u[-1, :2] * jnp.asarray(grid)).astype(jnp.int32)
            mask = mask[(jnp.arange(rows) - down) % rows][:, (jnp.arange(columns) - along) % columns]
        return mask.reshape(-1)

    return jax.vmap(one)(keys, counts)


def inverse_blocks(keys: jax.Array, visible: int, grid: tuple[int, int]) -> jax.Array:
    """Masks of all but one rectangle, as CAPI has them: exactly `visible` patches are seen.

    The logarithm of its aspect is uniform where the rectangle fits in, between 1/2 and 2; its sides are rounded up, its
    place is uniform, and what is too much goes from its end. Then the mask is shifted around the edges, by a uniform
    number of rows and columns.

    Args:
      keys: one an image [n].
      visible: patches that are seen.
      grid: rows and columns of patches.

    Returns:
      bool [n, rows columns], which patches are hidden.
    """
    rows, columns = grid
    least, most = max(0.5, visible / columns**2), min(2.0, rows**2 / visible)

    def one(key: jax.Array) -> jax.Array:
        u = jax.random.uniform(key, (5,))
        aspect = jnp.exp(jnp.log(least) + u[0] * (jnp.log(most) - jnp.log(least)))
        # Whole numbers decide what rounding might: that the rectangle fits in, and has enough patches.
        h = jnp.clip(jnp.ceil(jnp.sqrt(visible * aspect)).astype(jnp.int32), -(-visible // columns), rows)
        w = jnp.ceil(jnp.sqrt(visible / aspect)).astype(jnp.int32)
        w = jnp.clip(w, -(-visible // h), columns)
        space = jnp.stack([rows - h + 1, columns - w + 1, jnp.asarray(rows), jnp.asarray(columns)])
        top, left, down, along = jnp.floor(u[1:] * space).astype(jnp.int32)
        r, c = jnp.arange(rows)[:, None], jnp.arange(columns)
        inside = (r >= top) & (r < top + h) & (c >= left) & (c < left + w)
        seen = inside & (jnp.cumsum(inside.reshape(-1)).reshape(grid) <= visible)
        return ~jnp.roll(seen, jnp.stack([down, along]), (0, 1)).reshape(-1)

    return jax.vmap(one)(keys)


def stratified_counts(
    rng: jax.Array,
    numbers: jax.Array,
    patches: int,
    *,
    group: int,
    share: float,
    low: float,
    high: float,
    drawn: bool = True,
) -> jax.Array:
    """How many patches of each crop are masked, as DINOv2 has it, in fixed groups of crops.

    Of each group int(group share) crops are masked, in a random order: the i-th has a ratio between the i-th and the
    next of evenly spaced numbers from `low` to `high`. The authors' groups are the crops of a device.

    Args:
      rng: a key that all replicas share.
      numbers: of the crops in the global batch [n].
      patches: of a crop.
      group: crops a group.
      share: of the crops that are masked.
      low: smallest ratio.
      high: largest ratio.
      drawn: the ratio is uniform within its part (DINOv2); False: its upper end (DINOv3).

    Returns:
      int [n].
    """
    own = jax.vmap(jax.random.fold_in, (None, 0))(rng, numbers // group)
    ranks = jax.vmap(lambda key: draw_ranks(key, group))(own)
    rank = jnp.take_along_axis(ranks, (numbers % group)[:, None], 1)[:, 0]
    ends = jnp.asarray(_ends(group, share, low, high))
    start, end = ends[jnp.minimum(rank, len(ends) - 2)], ends[jnp.minimum(rank + 1, len(ends) - 1)]
    draws = jax.vmap(jax.random.uniform)(jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(rng, 1), numbers))
    ratio = start + draws * (end - start) if drawn else end
    # A number that rounding leaves just below a whole one is that.
    counts = jnp.floor(patches * ratio + 1e-4).astype(jnp.int32)
    return jnp.where(rank < int(group * share), counts, 0)


def stratified_masks(
    rng: jax.Array, positions: jax.Array, grid: tuple[int, int], *, roll: bool = False, **strata: Any
) -> jax.Array:
    """Masks of an image's two large crops, of as many patches as `stratified_counts` says: bool [n, 2, rows columns].

    Args:
      rng: a key that all replicas share.
      positions: of the images in the global batch [n].
      grid: rows and columns of patches.
      roll: as of `block_masks`.
      **strata: as of `stratified_counts`.
    """
    numbers = crop_numbers(positions, 2).reshape(-1)
    counts = stratified_counts(rng, numbers, grid[0] * grid[1], **strata)
    keys = dist.example_keys(jax.random.fold_in(rng, 2), numbers)
    return block_masks(keys, counts, grid, roll=roll).reshape(len(positions), 2, -1)


def capacity(crops: int, patches: int, *, group: int, share: float, low: float, high: float) -> int:
    """The most patches that `stratified_counts` can mask in `crops` consecutive crops, the first at their multiple."""
    most = sorted((int(patches * end + 1e-4) for end in _ends(group, share, low, high)[1:]), reverse=True)
    if not int(group * share):
        return 1  # nothing is masked, but arrays have a row
    whole, rest = divmod(crops, group)
    if group % crops == 0:  # a part of one group
        return sum(most[:crops])
    # What is no multiple of a group may lie across two borders.
    return min((whole + (2 if rest else 0)) * sum(most), crops * most[0])


def _ends(group: int, share: float, low: float, high: float) -> np.ndarray:
    return np.linspace(low, high, max(int(group * share), 1) + 1, dtype=np.float32)
