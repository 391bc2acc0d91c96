"""Images that stay in their files until they are wanted."""

import dataclasses
import functools
import os
from typing import Any, Protocol

import numpy as np

from ssl_jax.data.crop import Crop, Place, cut
from ssl_jax.data.files import ZIP, read_file, read_part, read_zipped, retry
from ssl_jax.data.reading import AS_IS, Reading
from ssl_jax.runtime.errors import UserError

MOST_SKIPPED = 1000  # damaged images one after the other: so many are no accident


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
        return read_file(self.root, self.name(row))

    def name(self, row: int) -> str:
        return os.fsdecode(self.names[row])

    def __len__(self) -> int:
        return len(self.names)


@dataclasses.dataclass(frozen=True)
class TarFiles:
    """Images in uncompressed .tar files, or in a .zip file."""

    tars: tuple[str, ...]
    names: np.ndarray  # bytes [N]
    places: np.ndarray  # int64 [N, 3]: number of the file, first byte (in a .zip file of the header), length

    def read(self, row: int) -> bytes:
        tar, offset, size = self.places[row].tolist()
        read = read_zipped if self.tars[tar].lower().endswith(ZIP) else read_part
        return read(self.tars[tar], offset, size)

    def name(self, row: int) -> str:
        return f"{self.tars[self.places[row, 0]]}:{os.fsdecode(self.names[row])}"

    def __len__(self) -> int:
        return len(self.names)


@dataclasses.dataclass(frozen=True)
class JoinedFiles:
    """The files of several data sets, one after the other."""

    parts: tuple[Files, ...]
    starts: np.ndarray  # int [parts + 1], number of the first file of each; then of all

    def read(self, row: int) -> bytes:
        part, own = self._find(row)
        return part.read(own)

    def name(self, row: int) -> str:
        part, own = self._find(row)
        return part.name(own)

    def _find(self, row: int) -> tuple[Files, int]:
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.parts[number], row - int(self.starts[number])

    def __len__(self) -> int:
        return int(self.starts[-1])


@dataclasses.dataclass(frozen=True)
class Images:
    """Images of one split that stay where they are; indexing chooses some of them and reads none.

    Attributes:
      files: all images of the split.
      rows: int `[N]`, those that are meant, in order.
      size: side of the square that each is first brought to, as `data.load` explains; None: its own size.
      content: changes with the files and their order.
      reading: how pixels are taken.
      pages: int `[files]`, the page or frame that each is; None: the first.
      skipped: rows of `files` that this process has reported as unreadable.
    """

    files: Files
    rows: np.ndarray
    size: int | None = None
    content: str = ""
    reading: Reading = AS_IS
    pages: np.ndarray | None = None
    skipped: set[int] = dataclasses.field(default_factory=set, compare=False)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def channels(self) -> int:
        """Channels of every image: those that were asked for, or those of colour."""
        return 3 if self.reading.channels is None else len(self.reading.channels)

    def __getitem__(self, rows: Any) -> "Images":
        return dataclasses.replace(self, rows=self.rows[rows])

    def cut(self, row: int, place: Place) -> tuple[list[np.ndarray], int]:
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
        tried, reason = min(len(self), MOST_SKIPPED), ""
        for passed in range(tried):
            seen = (row + passed) % len(self)
            file = int(self.rows[seen])
            try:
                return self.crops(file, place, self.size), seen
            except (MemoryError, UserError):
                raise
            except Exception as error:  # Pillow's readers raise anything at all on damaged files; `prefetch` counts
                reason = reason or " ".join(str(error).split())[:150] or type(error).__name__
        named = self.files.name(int(self.rows[row]))
        raise UserError(
            f"None of {tried} images, of {len(self)}, can be read ({named}: {reason}): see whether they are there, or "
            "fetch them again."
        )

    def crops(self, file: int, place: Place, size: int | None = None) -> list[np.ndarray]:
        """Crops of a file, given by its number; arguments and errors as of `crop.cut`."""
        data = retry(functools.partial(self.files.read, file), self.files.name(file))
        return cut(data, place, size, self.reading, 0 if self.pages is None else int(self.pages[file]))

    def pictures(self, side: int) -> np.ndarray:
        """The centre squares of all images at one size, for people: uint8 `[N, side, side, C]`."""

        def centre(height: int, width: int) -> list[Crop]:
            short = min(height, width)
            return [Crop((height - short) // 2, (width - short) // 2, short, short, side)]

        return np.stack([self.cut(row, centre)[0][0] for row in range(len(self))])
