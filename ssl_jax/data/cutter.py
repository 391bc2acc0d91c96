"""Which images a streamed batch shows, and their crops, made on the processor.

What is seen is a pure function of the seed and the step. A `Training` or a `Pass` says which images make up a block
and from which key. Crop boxes come from the same keys, numbers and code as on the device (`augment/boxes.py`); the rest
of a view is drawn there.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from ssl_jax import streams
from ssl_jax.augment import boxes, draws, threefry
from ssl_jax.augment.view import View
from ssl_jax.data.crop import Crop
from ssl_jax.data.lazy import Images
from ssl_jax.data.samplers import Sampler
from ssl_jax.runtime.errors import UserError

PIECE = 16  # images that a worker hands over at once: few enough to share a batch among many, enough to pay for it


class Block(NamedTuple):
    """What one step or one block of an evaluation sees."""

    key: np.ndarray  # uint32 [2], from which the views' keys are made
    rows: np.ndarray  # int [B], of the images
    positions: np.ndarray  # int [B], by which an image's randomness is known
    together: int = 1  # images in a row that belong together, such as the frames of a clip


@dataclasses.dataclass(frozen=True)
class Training:
    """One part of the batches of a run, from one step to another: number i is that of step `start + i`.

    Attributes:
      sampler: which rows make a batch.
      part: name of the part of a batch.
      stream: number of the part's own keys; None where the batch has one part.
      seed: of the run.
      key: the run's raw key, uint32 [2].
      start: the first step.
      stop: the step after the last.
    """

    sampler: Sampler
    part: str
    stream: int | None
    seed: int
    key: np.ndarray
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def size(self) -> int:
        """Images of a block, over all processes."""
        return math.prod(self.sampler.parts[self.part])

    def __getitem__(self, number: int) -> Block:
        step = self.start + number
        rows = self.sampler(self.seed, step)[self.part].reshape(-1)
        key = threefry.fold_in(self.key, step)
        key = key if self.stream is None else threefry.fold_in(key, self.stream)
        return Block(key, rows, np.arange(len(rows)), math.prod(self.sampler.parts[self.part][1:]))


@dataclasses.dataclass(frozen=True)
class Pass:
    """Every image once, in blocks of one size, the last one filled up from the front; row and position are one."""

    key: np.ndarray  # uint32 [2]
    num_examples: int
    size: int  # images a block, over all processes

    def __len__(self) -> int:
        return -(-self.num_examples // self.size)

    def __getitem__(self, number: int) -> Block:
        rows = np.arange(number * self.size, (number + 1) * self.size) % self.num_examples
        return Block(self.key, rows, rows)


def share(processes: list[int], own: int, rows: int, columns: int) -> np.ndarray:
    """Which entries of a `[rows, columns]` block a process has to read.

    Args:
      processes: the process of each device, in the order of the mesh, over which the columns are laid.
      own: the process that asks.
      rows: micro-batches.
      columns: images of each, a multiple of the devices.

    Returns:
      int `[rows x its columns]`, numbers in the flattened block, ascending.
    """
    mine = np.repeat(np.array(processes) == own, columns // len(processes))
    return np.flatnonzero(np.tile(mine, rows))


@dataclasses.dataclass(frozen=True)
class Cutter:
    """Makes one piece of a block: what Grain's workers run, on the processor alone."""

    images: Images
    views: dict[str, View]
    plan: Training | Pass
    share: np.ndarray  # this process's entries of each block

    @property
    def pieces(self) -> int:
        """Pieces a block."""
        return -(-len(self.share) // PIECE)

    def __call__(self, number: int) -> tuple[dict[str, np.ndarray], list[int]]:
        """Returns each view's crops uint8 `[n, side, side, 3]`, and the `n` rows seen."""
        block, piece = divmod(int(number), self.pieces)
        key, rows, positions, together = self.plan[block]
        entries = self.share[piece * PIECE : (piece + 1) * PIECE]
        places = positions[entries]
        drawn = []
        for name, view in self.views.items():
            own = threefry.fold_in(key, streams.view(self.views, view.like or name))
            first = places - places % together if view.shared else places  # as `render.view_keys` has it
            drawn.append(threefry.uniform(threefry.fold_in(own, first), draws.count(view)))

        def one(number: int, row: int) -> tuple[list[np.ndarray], int]:
            return self.images.cut(
                row,
                lambda height, width: [
                    _crop(view, numbers[number], height, width)
                    for view, numbers in zip(self.views.values(), drawn, strict=True)
                ],
            )

        made = [one(number, row) for number, row in enumerate(rows[entries].tolist())]
        crops = {name: np.stack([crops[i] for crops, _ in made]) for i, name in enumerate(self.views)}
        return crops, [seen for _, seen in made]


def _crop(view: View, numbers: np.ndarray, height: int, width: int) -> Crop:
    if view.crop == "shift" and view.size > min(height, width) + 2 * view.pad:
        raise ValueError(f"an image of {width}x{height} pixels is too small for a crop of {view.size}")
    box = boxes.placed(view, draws.split(view, numbers), height, width).box  # the flip is done on the device
    top, left, box_height, box_width = (float(length) for length in box)
    return Crop(top, left, box_height, box_width, view.size, view.interpolation, view.antialias)


def check(views: dict[str, View], size: int | None) -> None:
    """Refuses views that cannot be cropped first and changed in colour later, and crops without a scale.

    Args:
      views: name to recipe.
      size: side to which images are brought; None: their own.

    Raises:
      UserError: a step comes before the crop.
    """
    threefry.check()
    for name, view in views.items():
        if view.crop == "shift" and size is None:
            raise UserError(
                f"config.method.{name}.crop is 'shift', which cuts {view.size} pixels out of an image of any size: set "
                "--config.data.size, to which images are brought before."
            )
        before = [step for step in view.order[: view.order.index("crop")] if step != "flip" and getattr(view, step)]
        if before:
            raise UserError(
                f"config.method.{name}.order has '{before[0]}' before 'crop', but streamed images are cropped while "
                "they are decoded: put 'crop' first, or set --config.data.stream=never."
            )
