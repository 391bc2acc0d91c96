"""The part of `jax.random` that decides crops, in NumPy: for processes that decode images and have no devices.

Bit for bit what JAX's default generator gives (Threefry-2x32 with 20 rounds, Salmon et al. 2011, in the layout of
`jax_threefry_partitionable`); `check` refuses a JAX that is set up otherwise.
"""

import jax
import numpy as np

from ssl_jax.runtime.errors import UserError

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def check() -> None:
    """Makes sure that JAX draws the numbers that this module draws.

    Raises:
      UserError: JAX is configured to another generator.
    """
    settings = jax.config.values
    if settings["jax_default_prng_impl"] != "threefry2x32" or not settings["jax_threefry_partitionable"]:
        raise UserError(
            "Streamed images need JAX's default random generator: leave jax_default_prng_impl at 'threefry2x32' and "
            "jax_threefry_partitionable on, or set --config.data.stream=never."
        )


def _hash(keys: np.ndarray, high: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The block cipher; keys uint32 [..., 2], both halves of the counter uint32, broadcast against keys[..., 0]."""
    schedule = (keys[..., 0], keys[..., 1], keys[..., 0] ^ keys[..., 1] ^ _PARITY)
    x, y = high + schedule[0], low + schedule[1]
    for group in range(5):
        for turn in _ROTATIONS[group % 2]:
            x = x + y
            y = ((y << np.uint32(turn)) | (y >> np.uint32(32 - turn))) ^ x
        x = x + schedule[(group + 1) % 3]
        y = y + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return x, y


def fold_in(keys: np.ndarray, data: np.ndarray | int) -> np.ndarray:
    """`jax.random.fold_in` over arrays.

    Args:
      keys: raw keys, uint32 [..., 2].
      data: numbers from 0 to 2^32 - 1, broadcast against `keys[..., 0]`.

    Returns:
      raw keys, uint32 [..., 2].
    """
    low = np.asarray(data, np.uint32)
    # One dimension more: NumPy's scalars would warn where these sums are meant to wrap around.
    x, y = _hash(keys[..., None, :], np.zeros_like(low[..., None]), low[..., None])
    return np.concatenate([x, y], -1)


def uniform(keys: np.ndarray, count: int) -> np.ndarray:
    """`jax.random.uniform(key, (count,))` of every key.

    Args:
      keys: raw keys, uint32 [..., 2].
      count: numbers a key.

    Returns:
      float32 [..., count] in [0, 1).
    """
    low = np.arange(count, dtype=np.uint32)
    x, y = _hash(keys[..., None, :], np.zeros_like(low), low)
    return ((x ^ y) >> np.uint32(9) | np.uint32(0x3F800000)).view(np.float32) - np.float32(1.0)
