"""Images that do not fit in memory: read, decoded and cropped while the devices train.

What is seen is a pure function of the seed and the step. A `Training` or a `Pass` says which images make up a block
and from which key; Grain maps pieces of it to crops, in worker processes or in threads of this one, and gives them
back in order. So nothing has to be stored to resume, not even Grain's state: a run that starts at step t asks for
the pieces from t on. Crop boxes come from the same keys, numbers and code as on the device (`augment/boxes.py`); the
rest of a view is drawn there.
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools
import hashlib
import logging
import math
import os
import pathlib
from typing import Any, NamedTuple, Protocol
import warnings

from absl import flags
import joblib
import numpy as np

from ssl_jax import streams
from ssl_jax.augment import boxes, draws, threefry
from ssl_jax.augment.view import View
from ssl_jax.data import STREAMED, Dataset, Request, folder
from ssl_jax.data.crop import Crop, cut
from ssl_jax.data.samplers import Sampler
from ssl_jax.runtime.errors import UserError

MOST_SKIPPED = 1000  # damaged images one after the other: so many are no accident
PIECE = 16  # images that a worker hands over at once: few enough to share a batch among many, enough to pay for it

logger = logging.getLogger("ssl_jax")


class Files(Protocol):
    """Encoded images in a fixed order, which can travel to another process."""

    def read(self, row: int) -> bytes:
        """Returns the bytes of one file."""
        ...

    def name(self, row: int) -> str:
        """What to call it in a message."""
        ...

    def __len__(self) -> int: ...


@dataclasses.dataclass(frozen=True)
class FolderFiles:
    """Image files below a folder."""

    root: str
    names: np.ndarray  # bytes [N], below the folder

    def read(self, row: int) -> bytes:
        return folder.read_file(self.root, self.name(row))

    def name(self, row: int) -> str:
        return os.fsdecode(self.names[row])

    def __len__(self) -> int:
        return len(self.names)


@dataclasses.dataclass(frozen=True)
class TarFiles:
    """Images in uncompressed .tar files."""

    tars: tuple[str, ...]
    names: np.ndarray  # bytes [N]
    places: np.ndarray  # int64 [N, 3]: number of the .tar file, first byte, length

    def read(self, row: int) -> bytes:
        tar, offset, size = self.places[row].tolist()
        return folder.read_part(self.tars[tar], offset, size)

    def name(self, row: int) -> str:
        return f"{self.tars[self.places[row, 0]]}:{os.fsdecode(self.names[row])}"

    def __len__(self) -> int:
        return len(self.names)


@dataclasses.dataclass(frozen=True)
class RecordFiles:
    """Images of a prepared tfds data set."""

    examples: Any  # tfds's data source, images left encoded
    key: str  # of the image in an example
    rows: np.ndarray  # int [N], of the examples

    def read(self, row: int) -> bytes:
        return bytes(self.examples[int(self.rows[row])][self.key])

    def name(self, row: int) -> str:
        return f"example {self.rows[row]}"

    def __len__(self) -> int:
        return len(self.rows)


@dataclasses.dataclass(frozen=True)
class Images:
    """Images of one split that stay where they are; indexing chooses some of them and reads none.

    Attributes:
      files: all images of the split.
      rows: int `[N]`, those that are meant, in order.
      size: side of the square that each is first brought to, as `data.load` explains; None: its own size.
      content: changes with the files and their order.
      skipped: rows of `files` that this process has reported as unreadable.
    """

    files: Files
    rows: np.ndarray
    size: int | None = None
    content: str = ""
    skipped: set[int] = dataclasses.field(default_factory=set, compare=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any) -> "Images":
        return dataclasses.replace(self, rows=self.rows[rows])

    def cut(self, row: int, place: Callable[[int, int], list[Crop]]) -> tuple[list[np.ndarray], int]:
        """Cuts crops out of an image or, where it cannot be read, out of the next one that can.

        Args:
          row: of the image.
          place: as for `crop.cut`.

        Returns:
          the crops, and the row of the image they are of.

        Raises:
          UserError: no image can be read.
          TryAgain: this one cannot be read now.
        """
        tried = min(len(self), MOST_SKIPPED)
        for passed in range(tried):
            seen = (row + passed) % len(self)
            file = int(self.rows[seen])
            try:
                data = folder.patiently(functools.partial(self.files.read, file), self.files.name(file))
                return cut(data, place, self.size), seen
            except (MemoryError, UserError):
                raise
            except Exception:  # Pillow's readers raise anything at all on damaged files; `blocks` counts and names
                continue
        named = self.files.name(int(self.rows[row]))
        raise UserError(
            f"None of {tried} images, of {len(self)}, can be read ({named}, ...): see whether they are there, or fetch "
            "them again."
        )

    def pictures(self, side: int) -> np.ndarray:
        """The centre squares of all images at one size, for people: uint8 `[N, side, side, 3]`."""

        def centre(height: int, width: int) -> list[Crop]:
            short = min(height, width)
            return [Crop((height - short) // 2, (width - short) // 2, short, short, side)]

        return np.stack([self.cut(row, centre)[0][0] for row in range(len(self))])


class Block(NamedTuple):
    """What one step or one block of an evaluation sees."""

    key: np.ndarray  # uint32 [2], from which the views' keys are made
    rows: np.ndarray  # int [B], of the images
    positions: np.ndarray  # int [B], by which an image's randomness is known


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
        return Block(key, rows, np.arange(len(rows)))


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
        key, rows, positions = self.plan[block]
        entries = self.share[piece * PIECE : (piece + 1) * PIECE]
        keys = [threefry.fold_in(key, streams.view(self.views, name)) for name in self.views]
        drawn = [
            threefry.uniform(threefry.fold_in(own, positions[entries]), draws.count(view))
            for own, view in zip(keys, self.views.values(), strict=True)
        ]

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


def blocks(cutter: Cutter, workers: int) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]]:
    """Yields this process's part of each block of a plan, in order.

    At most a few pieces a worker are made ahead. An image that cannot be read is replaced by the next one that can;
    it is named in the log the first time.

    Args:
      cutter: what to make.
      workers: processes that decode; 0: threads of this one.

    Yields:
      each view's crops uint8 `[n, side, side, 3]`, and rows `[n]` wanted and seen, in fresh arrays.

    Raises:
      UserError: no image can be read.
    """
    import grain  # takes a while, and only streams need it

    if not flags.FLAGS.is_parsed():  # Grain's workers ask for its flags, which a library call or a notebook lacks
        flags.FLAGS.mark_as_parsed()
    _ignore_remarks(0, 0)
    pieces = grain.MapDataset.range(len(cutter.plan) * cutter.pieces).map(cutter)
    # A process has one more thread, so that it reads while it decodes.
    threads = 1 if workers else joblib.cpu_count()
    stream = pieces.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))
    if workers:
        stream = stream.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2), worker_init_fn=_ignore_remarks
        )
    iterator = iter(stream)
    try:
        for number in range(len(cutter.plan)):
            try:
                parts = [next(iterator) for _ in range(cutter.pieces)]
            except UserError as error:
                raise type(error)(str(error).partition("\n")[0]) from error  # Grain adds remarks of its own
            # As plain arrays: those of workers are of a class of their own, in memory that is shared with them.
            crops = {name: np.concatenate([np.asarray(part[0][name]) for part in parts]) for name in cutter.views}
            rows = cutter.plan[number].rows[cutter.share]
            seen = np.array([row for part in parts for row in part[1]])
            _report(cutter.images, rows, seen)
            yield crops, rows, seen
    finally:
        iterator.close()


def _ignore_remarks(index: int, count: int) -> None:
    """Silences Pillow's remarks on odd metadata, here and in each worker."""
    del index, count
    warnings.filterwarnings("ignore", module="PIL")


def _report(images: Images, rows: np.ndarray, seen: np.ndarray) -> None:
    count = len(images)
    for row, found in zip(rows.tolist(), seen.tolist(), strict=True):
        for passed in range((found - row) % count):
            bad = int(images.rows[(row + passed) % count])
            if bad not in images.skipped:
                images.skipped.add(bad)
                logger.warning(
                    "left out %s, which cannot be read (%d so far); the next one takes its place",
                    images.files.name(bad),
                    len(images.skipped),
                )


def load(kind: str, where: str, request: Request, path: str | None) -> Dataset:
    """Lists one split of a source for streaming; see `data.load`.

    Args:
      kind: of the source.
      where: the part of its name after the colon.
      request: which split and how large; `max_gib` does not matter.
      path: where the files lie.

    Raises:
      UserError: the source is absent or damaged, or cannot be read in any order.
    """
    from ssl_jax.data import tfds

    if kind not in STREAMED:
        raise UserError(f"{kind} is small and comes as one file: leave --config.data.stream at 'auto' or 'never'.")
    if kind == "tfds" or (kind == "cifar10" and path is None):
        name = where or kind
        examples, key, labels, classes, content = tfds.examples(name, request, path)
        rows = np.arange(len(labels))
        if request.per_class is not None:
            rows = folder.first_per_class(labels, request.per_class, f"tfds:{name}")
        files: Files = RecordFiles(examples, key, rows)
        images = Images(files, np.arange(len(rows)), request.size, content)
        return Dataset(name, images, labels[rows], classes)
    place = where or path or ""
    entries, classes = folder.listing(place, request)
    labels = np.array([entry.label for entry in entries], np.int32)
    content = hashlib.sha256(repr([dataclasses.astuple(entry) for entry in entries]).encode()).hexdigest()
    images = Images(_files(place, entries), np.arange(len(entries)), request.size, content)
    return Dataset(place, images, labels, classes)


def _files(place: str, entries: list[folder.Entry]) -> Files:
    # Arrays and not lists of strings, since each worker holds a copy.
    names = np.array([os.fsencode(entry.name) for entry in entries])
    if not entries[0].file:
        return FolderFiles(place if folder.is_address(place) else str(pathlib.Path(place).expanduser()), names)
    tars = {file: number for number, file in enumerate(sorted({entry.file for entry in entries}))}
    places = np.array([(tars[entry.file], entry.offset, entry.bytes) for entry in entries], np.int64)
    return TarFiles(tuple(tars), names, places)
