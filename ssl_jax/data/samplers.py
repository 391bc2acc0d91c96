"""Samplers: which rows of the data set make a batch.

A sampler is a pure function of the seed and the step, so that a run that is resumed sees the same batches and nothing
has to be stored. It returns row numbers, int32 `[n, ...]`, by the name of a part of the batch. The first axis of a part
is spread over the devices; what further axes hold, the frames of a clip or the images of an episode, stays together on
one device. A batch of one part has no names: the part is called "".
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
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


@functools.lru_cache(maxsize=16)
def _permutation(seed: int, stream: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, stream, epoch]).permutation(count)


def _endless(seed: int, stream: int, start: int, length: int, count: int) -> np.ndarray:
    """Places `start` to `start + length` in an endless row of permutations of `count` numbers, int64 [length]."""
    epochs = range(start // count, (start + length - 1) // count + 1)
    drawn = np.concatenate([_permutation(seed, stream, epoch, count) for epoch in epochs])
    offset = start - epochs[0] * count
    return drawn[offset : offset + length]


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
            found[name] = rows[_endless(seed, stream, step * size, size, len(rows))].astype(np.int32)
        return found


def _rows_by_class(labels: np.ndarray, least: int) -> list[np.ndarray]:
    """The rows of each class that has at least so many images."""
    known = np.unique(labels[labels >= 0])
    found = (np.flatnonzero(labels == label) for label in known)
    return [rows for rows in found if len(rows) >= least]


@dataclasses.dataclass(frozen=True, eq=False)
class PerClass:
    """P classes and K images of each (Hermans et al. 2017, sec. 2), so that every image has a partner in the batch.

    Classes take turns in a fresh order, and so do the images of a class. Classes with fewer than K images are left
    out. The batch has one part [P K] in which the images of a class are neighbours.

    Attributes:
      labels: int [N], -1 where unknown.
      classes: P.
      images: K.
    """

    labels: np.ndarray
    classes: int
    images: int

    def __post_init__(self) -> None:
        if self.classes < 2 or self.images < 2:
            raise UserError(
                f"A batch of {self.classes} classes with {self.images} images each has no pair to compare: set both to "
                "at least 2."
            )
        if len(self._rows) < self.classes:
            raise UserError(
                f"A batch takes {self.images} images of each of {self.classes} classes, but only {len(self._rows)} "
                "classes of the training images have as many: lower config.batch_size or the images per class."
            )

    @functools.cached_property
    def _rows(self) -> list[np.ndarray]:
        return _rows_by_class(self.labels, self.images)

    @property
    def parts(self) -> Mapping[str, tuple[int, ...]]:
        return {"": (self.classes * self.images,)}

    @property
    def steps_per_epoch(self) -> int:
        return max(1, sum(map(len, self._rows)) // (self.classes * self.images))

    def __call__(self, seed: int, step: int) -> Indices:
        count = len(self._rows)
        # Whole rounds of classes only, so that no class comes twice in a batch.
        rounds = count // self.classes
        turn, place = divmod(step, rounds)
        chosen = _permutation(seed, 0, turn, count)[place * self.classes : (place + 1) * self.classes]
        rows = []
        for label in chosen.tolist():
            members = self._rows[label]
            order = np.random.default_rng([seed, 1, step, label]).permutation(len(members))[: self.images]
            rows.append(members[order])
        return {"": np.concatenate(rows).astype(np.int32)}


@dataclasses.dataclass(frozen=True, eq=False)
class Episodes:
    """Few-shot tasks: some classes, and of each some images to learn from and some to answer for.

    The batch has one part [E, ways, shots + queries]; the first `shots` images of a class are its support. An epoch is
    as many episodes as show as many images as the data set has.

    Attributes:
      labels: int [N], -1 where unknown.
      episodes: E, in a batch.
      ways: classes of an episode.
      shots: labelled images of each class.
      queries: further images of each class.
    """

    labels: np.ndarray
    episodes: int
    ways: int
    shots: int
    queries: int

    def __post_init__(self) -> None:
        if self.ways < 2 or self.shots < 1 or self.queries < 1:
            raise UserError(
                f"Episodes of {self.ways} classes with {self.shots} shots and {self.queries} queries mean nothing: "
                "config.method needs at least 2 ways, 1 shot and 1 query."
            )
        if len(self._rows) < self.ways:
            raise UserError(
                f"Episodes take {self.shots} + {self.queries} images of each of {self.ways} classes, but only "
                f"{len(self._rows)} classes of the training images have as many: lower config.method.ways, shots or "
                "queries."
            )

    @functools.cached_property
    def _rows(self) -> list[np.ndarray]:
        return _rows_by_class(self.labels, self.shots + self.queries)

    @property
    def parts(self) -> Mapping[str, tuple[int, ...]]:
        return {"": (self.episodes, self.ways, self.shots + self.queries)}

    @property
    def steps_per_epoch(self) -> int:
        return max(1, sum(map(len, self._rows)) // (self.episodes * self.ways * (self.shots + self.queries)))

    def __call__(self, seed: int, step: int) -> Indices:
        return {"": np.stack([self._episode(seed, step * self.episodes + i) for i in range(self.episodes)])}

    def _episode(self, seed: int, number: int) -> np.ndarray:
        draw = np.random.default_rng([seed, number])
        each = self.shots + self.queries
        chosen = draw.permutation(len(self._rows))[: self.ways]
        return np.stack([draw.permutation(self._rows[i])[:each] for i in chosen.tolist()]).astype(np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class Clips:
    """Clips of T frames, `stride` frames apart; no clip reaches over the end of its video.

    Every place at which a clip can start comes once an epoch, in a fresh order; the last, partial batch is dropped.
    The batch has one part [B, T].

    Attributes:
      clip: int [N], the video that each frame belongs to; the frames of one lie together and in order.
      batch_size: B, clips.
      length: T, frames.
      stride: frames from one to the next.
    """

    clip: np.ndarray
    batch_size: int
    length: int
    stride: int = 1

    def __post_init__(self) -> None:
        if self.length < 1 or self.stride < 1:
            raise UserError(f"Clips of {self.length} frames, {self.stride} apart: both must be at least 1.")
        if len(self._starts) < self.batch_size:
            raise UserError(
                f"The training videos have {len(self._starts)} places for a clip of {self.length} frames that are "
                f"{self.stride} apart, fewer than the {self.batch_size} clips of config.batch_size: lower it, the "
                "number of frames or their stride."
            )

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        reach = (self.length - 1) * self.stride
        if reach >= len(self.clip):
            return np.zeros(0, int)
        # Frames lie together, so that a clip whose ends are of one video is of it throughout.
        return np.flatnonzero(self.clip[: len(self.clip) - reach] == self.clip[reach:])

    @property
    def parts(self) -> Mapping[str, tuple[int, ...]]:
        return {"": (self.batch_size, self.length)}

    @property
    def steps_per_epoch(self) -> int:
        return len(self._starts) // self.batch_size

    def __call__(self, seed: int, step: int) -> Indices:
        epoch, batch = divmod(step, self.steps_per_epoch)
        chosen = _permutation(seed, 0, epoch, len(self._starts))[batch * self.batch_size :][: self.batch_size]
        rows = self._starts[chosen][:, None] + np.arange(self.length) * self.stride
        return {"": rows.astype(np.int32)}


@dataclasses.dataclass(frozen=True, eq=False)
class TaskSequence:
    """Tasks one after the other, for continual learning, with a memory of images of the tasks before.

    Each task has the share of the run's updates that its images have of all images. Without a memory the batch has one
    part [B]; with one it has the parts `new` [B - memory] and `memory`. During the first task, which has nothing to
    remember, both are of that task.

    Attributes:
      tasks: rows [N_t] of each task, in order.
      batch_size: B.
      epochs: passes over the images of each task.
      memory: images of a batch that are remembered ones; 0: none.
      kept: images that are remembered of each earlier task, drawn at random once.
    """

    tasks: tuple[np.ndarray, ...]
    batch_size: int
    epochs: int
    memory: int = 0
    kept: int = 0

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
        sizes = np.array([len(rows) for rows in self.tasks])
        return np.ceil(np.cumsum(sizes) / sizes.sum() * self.steps_per_epoch * self.epochs).astype(int)

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
        new = rows[_endless(seed, 2 * task, begun * size, size, len(rows))].astype(np.int32)
        if not self.memory:
            return {"": new}
        old = np.concatenate([self.remembered(seed, number) for number in range(task)]) if task else rows
        chosen = _endless(seed, 2 * task + 1, begun * self.memory, self.memory, len(old))
        return {"new": new, "memory": old[chosen].astype(np.int32)}


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
