"""Orders in which rows are drawn, as functions of the seed."""

import functools

import numpy as np


@functools.lru_cache(maxsize=16)
def permutation(seed: int, stream: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, stream, epoch]).permutation(count)


def endless(seed: int, stream: int, start: int, length: int, count: int) -> np.ndarray:
    """Places `start` to `start + length` in an endless row of permutations of `count` numbers, int64 [length]."""
    epochs = range(start // count, (start + length - 1) // count + 1)
    drawn = np.concatenate([permutation(seed, stream, epoch, count) for epoch in epochs])
    offset = start - epochs[0] * count
    return drawn[offset : offset + length]
