"""Samplers by class: some images of each of some classes, and few-shot episodes."""

from collections.abc import Mapping
import dataclasses
import functools

import numpy as np

from ssl_jax.data.samplers.order import permutation
from ssl_jax.data.samplers.sampler import Indices
from ssl_jax.runtime.errors import UserError


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
        chosen = permutation(seed, 0, turn, count)[place * self.classes : (place + 1) * self.classes]
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
