"""Samplers of single images: of all of them, or of several sets of rows at once."""

from collections.abc import Mapping
import dataclasses
import functools
import math

import numpy as np

from ssl_jax.data.samplers.order import endless
from ssl_jax.data.samplers.sampler import Indices
from ssl_jax.runtime.errors import UserError


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num_examples).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Shuffled:
    """Every image once an epoch in a fresh order; the last, partial batch is dropped.

    Attributes:
      num_examples: images of the data set.
      batch_size: images of a batch.
    """

    num_examples: int
    batch_size: int

    @property
    def parts(self) -> Mapping[str, tuple[int, ...]]:
        return {"": (self.batch_size,)}

    @property
    def steps_per_epoch(self) -> int:
        return self.num_examples // self.batch_size

    def __call__(self, seed: int, step: int) -> Indices:
        epoch, batch = divmod(step, self.steps_per_epoch)
        start = batch * self.batch_size
        return {"": _order(seed, epoch, self.num_examples)[start : start + self.batch_size]}


@dataclasses.dataclass(frozen=True, eq=False)
class Joined:
    """A share of the batch from each of several sets of rows, each of which is shuffled and repeated by itself.

    An epoch is one pass over the set that takes the most steps for it.

    Attributes:
      rows: part name to the rows [N] that it is drawn from.
      sizes: part name to its images in a batch. A set may be smaller than that: it then repeats within a batch.
    """

    rows: Mapping[str, np.ndarray]
    sizes: Mapping[str, int]

    def __post_init__(self) -> None:
        for name, size in self.sizes.items():
            if not len(self.rows[name]):
                raise UserError(f"The batch has a part '{name}' of {size} images, but no image of the data set is one.")
            if size < 1:
                raise UserError(f"The part '{name}' of a batch has {size} images: it needs at least one.")

    @property
    def parts(self) -> Mapping[str, tuple[int, ...]]:
        return {name: (size,) for name, size in self.sizes.items()}

    @property
    def steps_per_epoch(self) -> int:
        return max(math.ceil(len(self.rows[name]) / size) for name, size in self.sizes.items())

    def __call__(self, seed: int, step: int) -> Indices:
        found = {}
        for stream, (name, size) in enumerate(self.sizes.items()):
            rows = self.rows[name]
            found[name] = rows[endless(seed, stream, step * size, size, len(rows))].astype(np.int32)
        return found
