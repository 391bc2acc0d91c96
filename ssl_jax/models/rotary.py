"""Rotary positions of patches (Su et al. 2021; RoPE) along both axes, as DINOv3 has them.

Queries and keys are turned by angles that grow with a patch's place, so that their inner products depend on the
difference of two places alone. Nothing is learned, and any grid of patches will do.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.models.onnx import Graph
from ssl_jax.runtime.errors import UserError

BASE = 100.0  # of the periods (DINOv3)


def check(heads: int, width: int) -> None:
    """Refuses a width that the angles do not divide.

    Raises:
      UserError: with the field to change.
    """
    if width // heads % 4:
        raise UserError(
            f"config.model.positions is 'rope', which turns quarters of a head's channels, and {width} channels over "
            f"{heads} heads are {width // heads} each: choose config.model.heads so that it is a multiple of 4."
        )


def periods(width: int) -> np.ndarray:
    """Periods of a quarter of a head's channels [width / 4], from 1 to almost `BASE`."""
    return BASE ** (4 * np.arange(width // 4) / width)


class Change(NamedTuple):
    """Another look at the places of all patches: shifted, then scaled, along rows and columns."""

    shift: jax.Array  # [2], where an axis is 2 long
    scale: jax.Array  # [2]


def drawn_change(key: jax.Array, shift: float, jitter: float, rescale: float) -> Change:
    """Draws a `Change` as DINOv3 has it in training, one for all images.

    Args:
      key: a key that all replicas share.
      shift: uniform between minus this and this, along each axis; 0: none.
      jitter: factor, log-uniform between 1 / this and this, of each axis by itself; 1: none.
      rescale: likewise, of both axes alike.
    """
    u = jax.random.uniform(key, (5,), minval=-1.0)
    return Change(shift * u[:2], jnp.exp(jnp.log(jitter) * u[2:4] + jnp.log(rescale) * u[4]))


def angles(grid: tuple[int, int], width: int, change: Change | None = None) -> Any:
    """Angles in radians of a head's channels [rows columns, width], row by row.

    The centres of the patches are scaled to [-1, 1] along each axis. A quarter of the channels turns with the row and
    a quarter with the column, at their `periods`; the second half has the angles of the first.

    Args:
      grid: rows and columns of patches.
      width: channels of a head, a multiple of 4.
      change: of the places; None: there is none, and the angles are of NumPy in float64.
    """
    centres = [2 * (np.arange(n) + 0.5) / n - 1 for n in grid]
    places: Any = np.stack(np.meshgrid(*centres, indexing="ij"), -1).reshape(-1, 2, 1)
    if change is not None:
        places = (jnp.asarray(places, jnp.float32) + change.shift[:, None]) * change.scale[:, None]
    half = (2 * np.pi * places / periods(width)).reshape(len(places), -1)
    return (np if change is None else jnp).concatenate([half, half], 1)


def turns(
    grid: tuple[int, int], width: int, before: int, visible: jax.Array | None = None, change: Change | None = None
) -> jax.Array:
    """Cosine and sine of the angles of tokens [2, 1 or B, n, width], float32.

    Args:
      grid: rows and columns of patches.
      width: channels of a head.
      before: tokens in front of the patches, which are not turned.
      visible: indices [B, k] of the only patches that there are; None: all.
      change: of the places; None: there is none.
    """
    table, xp = angles(grid, width, change), np if change is None else jnp
    found = jnp.asarray(xp.stack([xp.cos(table), xp.sin(table)]), jnp.float32)
    found = found[:, None] if visible is None else found[:, visible]
    still = jnp.array([1.0, 0.0])[:, None, None, None]
    return jnp.concatenate([jnp.broadcast_to(still, (2, found.shape[1], before, width)), found], 2)


def turned(x: jax.Array, by: jax.Array) -> jax.Array:
    """Turns queries or keys: channel i and the channel half a head further are a plane.

    Args:
      x: [B, n, heads, width].
      by: as `turns` returns it.
    """
    cos, sin = by[:, :, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, -1)
    return (x * cos + jnp.concatenate([-second, first], -1) * sin).astype(x.dtype)


def onnx_turned(graph: Graph, x: str, by: Any) -> str:
    """`turned` of a value [N, heads, n, width] in an ONNX graph; `by`: [2, 1, n, width]."""
    cos, sin = (graph.constant(np.asarray(part)[:, None]) for part in by)
    last, half = graph.constant(np.array([-1])), by.shape[-1] // 2
    ends = [graph.constant(np.array([n])) for n in (0, half, 2 * half)]
    first, second = (graph.add("Slice", x, start, stop, last) for start, stop in itertools.pairwise(ends))
    across = graph.add("Concat", graph.add("Neg", second), first, axis=-1)
    return graph.add("Add", graph.add("Mul", x, cos), graph.add("Mul", across, sin))
