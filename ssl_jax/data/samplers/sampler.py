"""The contract of a sampler, and its check against the data."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from ssl_jax.runtime.errors import UserError

Indices = dict[str, np.ndarray]


class Sampler(Protocol):
    """Which rows make the batch of a step."""

    @property
    def parts(self) -> Mapping[str, tuple[int, ...]]:
        """Name to shape [n, ...] of each part of a batch."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Updates that count as one pass over the data."""
        ...

    def __call__(self, seed: int, step: int) -> Indices:
        """Returns the rows of each part, int32 [n, ...].

        Args:
          seed: of the run.
          step: updates done before this batch.
        """
        ...


def check(sampler: Sampler, num_examples: int, shares: int) -> None:
    """Makes sure that what a sampler says of a batch is what it draws, and that it can be spread over the devices.

    Args:
      sampler: of a run.
      num_examples: rows of the data set.
      shares: devices times micro-batches, over which the first axis of each part is spread.

    Raises:
      UserError: in one sentence, before anything is compiled.
    """
    if sampler.steps_per_epoch < 1:
        raise UserError(f"An epoch of the {num_examples} training images has no whole batch: lower config.batch_size.")
    for name, shape in sampler.parts.items():
        part = f"The part '{name}' of a batch" if name else "The batch"
        if shape[0] % shares:
            raise UserError(
                f"{part} has {shape[0]} entries, which do not divide over {shares} devices times micro-batches: make "
                f"it a multiple of {shares}."
            )
    drawn = sampler(0, 0)
    for name, shape in sampler.parts.items():
        rows = drawn.get(name)
        if rows is None or rows.shape != tuple(shape) or rows.dtype != np.int32:
            got = "nothing" if rows is None else f"{rows.dtype} {list(rows.shape)}"
            raise ValueError(f"{type(sampler).__name__} draws {got} for the part '{name}', not int32 {list(shape)}")
        if rows.min() < 0 or rows.max() >= num_examples:
            raise ValueError(f"{type(sampler).__name__} draws rows beyond the {num_examples} of the data set")


def single(indices: Mapping[str, Any]) -> Any:
    """What belongs to the parts, without the name where there is one part and it has none."""
    return indices[""] if "" in indices else dict(indices)


def each(fn: Callable[[Any], Any], parts: Any) -> Any:
    """`fn` of each part, of something that `single` made."""
    return {name: fn(part) for name, part in parts.items()} if isinstance(parts, dict) else fn(parts)
