"""The sampler of continual learning: tasks one after the other."""

from collections.abc import Mapping
import dataclasses
import functools

import numpy as np

from ssl_jax.data.samplers.order import endless
from ssl_jax.data.samplers.sampler import Indices
from ssl_jax.runtime.errors import UserError


def task_end(number: int, tasks: int, total: int) -> int:
    """Updates after which a task ends, counted from 0, where all of `tasks` have as many of the run's `total`."""
    return -(-(number + 1) * total // tasks)


@dataclasses.dataclass(frozen=True, eq=False)
class TaskSequence:
    """Tasks one after the other, for continual learning, with a memory of images of the tasks before.

    Each task has the share of the run's updates that its images have of all images, or as many as any other. Without a
    memory the batch has one part [B]; with one it has the parts `new` [B - memory] and `memory`. During the first task,
    which has nothing to remember, both are of that task.

    Attributes:
      tasks: rows [N_t] of each task, in order.
      batch_size: B.
      epochs: passes over the images of each task.
      memory: images of a batch that are remembered ones; 0: none.
      kept: images that are remembered of each earlier task, drawn at random once.
      even: whether all tasks have as many updates.
    """

    tasks: tuple[np.ndarray, ...]
    batch_size: int
    epochs: int
    memory: int = 0
    kept: int = 0
    even: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.memory < self.batch_size or (self.memory > 0) != (self.kept > 0):
            raise UserError(
                f"A batch of {self.batch_size} images has {self.memory} remembered ones, of {self.kept} that are kept "
                "of each task: the first must be smaller than the batch, and both zero or neither."
            )
        if small := [number for number, rows in enumerate(self.tasks) if len(rows) < self.batch_size - self.memory]:
            raise UserError(
                f"Task {small[0]} has {len(self.tasks[small[0]])} images, fewer than the "
                f"{self.batch_size - self.memory} new images of a batch: lower config.batch_size."
            )

    @property
    def parts(self) -> Mapping[str, tuple[int, ...]]:
        if not self.memory:
            return {"": (self.batch_size,)}
        return {"new": (self.batch_size - self.memory,), "memory": (self.memory,)}

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        """Updates after which each task ends."""
        total, sizes = self.steps_per_epoch * self.epochs, np.array([len(rows) for rows in self.tasks])
        if self.even:
            return np.array([task_end(number, len(self.tasks), total) for number in range(len(self.tasks))])
        return np.ceil(np.cumsum(sizes) / sizes.sum() * total).astype(int)

    @property
    def steps_per_epoch(self) -> int:
        return sum(map(len, self.tasks)) // (self.batch_size - self.memory)

    def task(self, step: int) -> int:
        """Number of the task that an update belongs to; the last goes on for ever."""
        return min(int(np.searchsorted(self._ends, step, side="right")), len(self.tasks) - 1)

    def remembered(self, seed: int, task: int) -> np.ndarray:
        """The rows that are remembered of one task, at most `kept`."""
        return np.random.default_rng([seed, 1, task]).permutation(self.tasks[task])[: self.kept]

    def __call__(self, seed: int, step: int) -> Indices:
        task = self.task(step)
        rows, size = self.tasks[task], self.batch_size - self.memory
        begun = step - (int(self._ends[task - 1]) if task else 0)
        new = rows[endless(seed, 2 * task, begun * size, size, len(rows))].astype(np.int32)
        if not self.memory:
            return {"": new}
        old = np.concatenate([self.remembered(seed, number) for number in range(task)]) if task else rows
        chosen = endless(seed, 2 * task + 1, begun * self.memory, self.memory, len(old))
        return {"new": new, "memory": old[chosen].astype(np.int32)}
