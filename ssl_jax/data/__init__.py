"""Image sources: a name gives random access to uint8 images and their labels."""

import dataclasses
from typing import Any

import numpy as np

from ssl_jax.runtime.errors import UserError, nearest

SOURCES = ("cifar10", "digits", "fashion_mnist", "folder", "photo_tiles", "tfds")
STREAMED = ("cifar10", "folder", "tfds")  # those whose images lie in files of their own


class DoesNotFit(UserError):
    """The images cannot be held in memory as one array; most sources can still be streamed."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One split of an image data set, held in memory or streamed.

    Attributes:
      name: the source it was loaded from.
      images: uint8 `[N, H, W, C]`, C is 1 (every image of the split is grey) or 3; or what reads them when they are
        wanted, always in colour.
      labels: int32 `[N]`, -1 where unknown.
      classes: class names in label order; empty where there are none.
    """

    name: str
    images: Any  # np.ndarray or stream.Images
    labels: np.ndarray
    classes: tuple[str, ...]

    @property
    def streamed(self) -> bool:
        """Whether the images stay on disk until they are wanted."""
        return not isinstance(self.images, np.ndarray)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image; a side of 2^31 - 1 stands for sides that differ."""
        if self.streamed:
            side = self.images.size or 2**31 - 1
            return side, side, 3
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def pictures(self, rows: np.ndarray, side: int) -> np.ndarray:
        """Some images as one array uint8 `[n, H, W, C]`; streamed ones are their centre squares, `side` pixels wide."""
        chosen = self.images[rows]
        return chosen.pictures(side) if self.streamed else chosen


@dataclasses.dataclass(frozen=True)
class Request:
    """What is wanted of a source; the fields are explained at `load`."""

    split: str
    size: int | None = None
    per_class: int | None = None
    max_gib: float = 8.0
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.split not in ("train", "test"):
            raise UserError(f"There is no split '{self.split}': ask for 'train' or 'test'.")
        for field in ("size", "per_class"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise UserError(f"data.{field} is {value}: set it to at least 1, or to None.")


def load(
    source: str,
    split: str,
    *,
    path: str | None = None,
    size: int | None = None,
    per_class: int | None = None,
    max_gib: float = 8.0,
    cache: str | None = None,
    stream: bool = False,
) -> Dataset:
    """Loads one split of a source into memory, or lists it so that its images can be streamed.

    Args:
      source: "digits", "photo_tiles", "fashion_mnist", "cifar10", "folder:PATH" or "tfds:NAME".
      split: "train" or "test"; `splits` says which of them a source has.
      path: where the files lie, for sources that read files.
      size: side of the square images in pixels: the short side is resized to it (bicubic, antialiased) and
        the centre cropped. None keeps the images as they are, which must then have one size.
      per_class: keep only the first n training images of each class, in file-name order; the test split is
        not touched.
      max_gib: the largest array of images to make, in GiB.
      cache: folder for downloads and decoded images; None is $SSL_JAX_CACHE or ~/.cache/ssl_jax.
      stream: leave the images where they are; they may then differ in size.

    Raises:
      UserError: the source is unknown, absent, empty or too large, lacks the split, or cannot be streamed.
    """
    kind, where = _parse(source, path)
    request = Request(split, size, per_class if split == "train" else None, max_gib, cache)
    name = f"{kind}:{where}" if kind in ("folder", "tfds") else kind
    return dataclasses.replace(_load(kind, where, request, path, stream), name=name)


def _load(kind: str, where: str, request: Request, path: str | None, streamed: bool) -> Dataset:
    # Imported here because these modules need the classes above.
    from ssl_jax.data import builtin, folder, stream, tfds

    if streamed:
        return stream.load(kind, where, request, path)
    if kind == "digits":
        return builtin.digits(request)
    if kind == "photo_tiles":
        return builtin.photo_tiles(request)
    if kind == "fashion_mnist":
        return builtin.fashion_mnist(request, path)
    if kind == "cifar10":
        return builtin.cifar10(request, path)
    if kind == "tfds":
        return tfds.load(where, request, path)
    return folder.load(where, request)


def splits(source: str, path: str | None = None) -> tuple[str, ...]:
    """Returns the splits that `load` can give for a source: "train", "test" or both, in that order.

    Args:
      source: as for `load`.
      path: as for `load`.

    Raises:
      UserError: the source is unknown or absent.
    """
    from ssl_jax.data import builtin, folder, tfds

    kind, where = _parse(source, path)
    if kind == "cifar10":
        return builtin.cifar10_splits(path)
    if kind == "tfds":
        return tfds.splits(where, path)
    if kind == "folder":
        return folder.splits(where)
    return ("train", "test")


def _parse(source: str, path: str | None) -> tuple[str, str]:
    """Splits "kind:where"; `path` stands in for the part after the colon of a folder."""
    kind, _, where = source.partition(":")
    if kind not in SOURCES:
        raise UserError(f"There is no data source '{kind}'. {nearest(kind, SOURCES)}")
    if kind == "folder" and not (where := where or path or ""):
        raise UserError("Source 'folder' has no place: write folder:PATH or set --config.data.path=PATH.")
    if kind == "tfds" and not where:
        raise UserError("Source 'tfds' has no name: write tfds:NAME, for example tfds:cifar10.")
    return kind, where
