"""The sampler of clips of videos."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Self

import numpy as np

from ssl_jax.data.dataset import Dataset
from ssl_jax.data.samplers.order import permutation
from ssl_jax.data.samplers.sampler import Indices
from ssl_jax.runtime.errors import UserError


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

    @classmethod
    def of(cls, data: Dataset, method: str, batch_size: int, length: int, stride: int, such_as: str = "davis") -> Self:
        """The clips of a data set.

        Args:
          data: with the field `clip`.
          method: that needs them, for the message.
          batch_size: clips.
          length: frames.
          stride: frames from one to the next.
          such_as: a source that has them, for the message.

        Raises:
          UserError: if the data do not say which frames belong together.
        """
        if "clip" not in data.fields:
            raise UserError(
                f"The method {method} needs videos, and the training images do not say which clip they belong to: "
                f"choose a source of videos, such as {such_as}."
            )
        return cls(np.asarray(data.fields["clip"]), batch_size, length, stride)

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
        chosen = permutation(seed, 0, epoch, len(self._starts))[batch * self.batch_size :][: self.batch_size]
        rows = self._starts[chosen][:, None] + np.arange(self.length) * self.stride
        return {"": rows.astype(np.int32)}
