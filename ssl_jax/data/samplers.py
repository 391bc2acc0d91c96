"""Data that lives on the devices: a step is told which images, and nothing else crosses to the device."""

import functools

import numpy as np


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num_examples).astype(np.int32)


def batch_indices(seed: int, step: int, num_examples: int, batch_size: int) -> np.ndarray:
    """Indices of the images of one batch: a function of the seed and the step alone.

    Args:
      seed: of the run.
      step: updates done before this batch.
      num_examples: images in the data set.
      batch_size: images in the global batch.

    Returns:
      int32 [batch_size]; every epoch is a fresh permutation whose last, partial batch is dropped.
    """
    epoch, batch = divmod(step, num_examples // batch_size)
    return _order(seed, epoch, num_examples)[batch * batch_size : (batch + 1) * batch_size]
