"""Makes sure that processes hold the same state."""

from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np


class Diverged(Exception):
    """Processes that must hold the same state do not."""


def check_equal(tree: Any, what: str) -> None:
    """Compares the replicated leaves of a tree between processes, by a hash of each.

    Args:
      tree: of arrays on the devices; leaves that lie in parts are left out.
      what: where in the run, for the message.

    Raises:
      Diverged: names the first leaf that differs.
    """
    if jax.process_count() == 1:
        return
    leaves = [(path, x) for path, x in jax.tree_util.tree_leaves_with_path(tree) if x.is_fully_replicated]
    hashes = multihost_utils.process_allgather(np.asarray(_hashes([x.addressable_data(0) for _, x in leaves])))
    for (path, _), values in zip(leaves, hashes.T, strict=True):
        if (values != values[0]).any():
            other = int(np.argmax(values != values[0]))
            raise Diverged(
                f"{what} processes 0 and {other} no longer hold the same {jax.tree_util.keystr(path)}; no checkpoint "
                "was written of it. A device may be faulty, or a method takes something from its own process alone "
                "(data, time, a random number); the same command starts from the last checkpoint."
            )


@jax.jit
def _hashes(leaves: list[jax.Array]) -> jax.Array:
    """One uint32 a leaf, which changes when any single element does."""
    return jnp.stack([_hash(x) for x in leaves])


def _hash(x: jax.Array) -> jax.Array:
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)).ravel()
    # Odd weights: no change of one element is lost modulo 2^32.
    weights = 2 * jax.lax.iota(jnp.uint32, bits.size) + 1
    return jnp.sum(bits.astype(jnp.uint32) * weights * jnp.uint32(2654435761), dtype=jnp.uint32)
