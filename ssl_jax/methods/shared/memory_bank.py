"""Memory banks: one row an image, in equal shares on the devices.

Rows do not travel: every replica scores the embeddings of the whole batch against its own rows.
"""

import math

import jax
import jax.numpy as jnp

from ssl_jax import losses

BLOCK = 1024  # rows of a bank are a multiple, so that they divide over any usual number of devices


def size(num_examples: int) -> int:
    """Rows of a bank for so many images; the last ones belong to no image."""
    return -(-num_examples // BLOCK) * BLOCK


def new(rng: jax.Array, num_examples: int, width: int, *, normalised: bool = False) -> jax.Array:
    """A fresh bank: U(-1, 1) / sqrt(width / 3), so that rows have a length near one.

    Args:
      rng: a key.
      num_examples: images n.
      width: D.
      normalised: divide each row by its length (VISSL).

    Returns:
      [n rounded up, D]; rows from n on belong to no image.
    """
    bank = jax.random.uniform(rng, (size(num_examples), width), minval=-1.0, maxval=1.0) / math.sqrt(width / 3)
    return losses.l2_normalize(bank) if normalised else bank


def update(bank: jax.Array, index: jax.Array, v: jax.Array, momentum: float, axis_name: str | None = None) -> jax.Array:
    """m_i <- u(momentum m_i + (1 - momentum) v_i) for the images of the batch; other rows stay.

    Args:
      bank: this replica's rows [R, D].
      index: images [n] of this replica's batch, none of them twice in the global batch.
      v: their embeddings [n, D].
      momentum: weight of the old row.
      axis_name: mapped axis over which bank and batch lie.
    """
    row, mine = _own(_gathered(index, axis_name), bank, axis_name)
    moved = losses.l2_normalize(momentum * bank[row] + (1 - momentum) * _gathered(v, axis_name))
    return _written(bank, row, mine, moved)


def store(bank: jax.Array, index: jax.Array, values: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Replaces the rows of the batch's images [n] by `values` [n, ...]; as `update` otherwise."""
    row, mine = _own(_gathered(index, axis_name), bank, axis_name)
    return _written(bank, row, mine, _gathered(values, axis_name))


def lookup(v: jax.Array, bank: jax.Array, index: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Inner products of every embedding with its own choice of rows of the bank, which gets no gradient.

    Args:
      v: embeddings [n, D].
      bank: this replica's rows [R, D].
      index: images [n, K] whose rows are wanted, anywhere in the whole bank.
      axis_name: mapped axis over which bank and batch lie.

    Returns:
      [n, K].
    """
    row, mine = _own(_gathered(index, axis_name), bank, axis_name)
    found = jnp.where(mine, jnp.take_along_axis(scores(v, bank, axis_name), row, 1), 0.0)  # [N, K], a share of it
    return found if axis_name is None else jax.lax.psum_scatter(found, axis_name, tiled=True)


def _gathered(x: jax.Array, axis_name: str | None) -> jax.Array:
    return x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True)


def scores(v: jax.Array, bank: jax.Array, axis_name: str | None) -> jax.Array:
    """Inner products [N, R] of the embeddings [n, D] of all replicas with this replica's rows [R, D].

    The rows get no gradient.
    """
    return losses.similarity(_gathered(v, axis_name), jax.lax.stop_gradient(bank))


def _own(index: jax.Array, bank: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """This replica's row of each image (0 where another has it), and whether it is this replica's."""
    row = index - (0 if axis_name is None else jax.lax.axis_index(axis_name) * len(bank))
    mine = (row >= 0) & (row < len(bank))
    return jnp.where(mine, row, 0), mine


def _written(bank: jax.Array, row: jax.Array, mine: jax.Array, values: jax.Array) -> jax.Array:
    """The bank with this replica's rows replaced; what is another's is dropped."""
    bank, values = jax.lax.stop_gradient((bank, values.astype(bank.dtype)))
    return bank.at[jnp.where(mine, row, len(bank))].set(values, mode="drop")
