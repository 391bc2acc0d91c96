"""What a data set is: its images, its labels, further arrays of the same length, and the card that describes it."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any, Protocol

import numpy as np

from ssl_jax.data.files import printable
from ssl_jax.data.reading import MOST_PIXELS, Reading, Span
from ssl_jax.runtime.errors import UserError


class DoesNotFit(UserError):
    """The images cannot be held in memory as one array; most sources can still be streamed."""


@dataclasses.dataclass(frozen=True)
class Card:
    """The facts of a data set as it is published; None or empty where they are unknown or differ.

    Attributes:
      side: height and width of an image in pixels; None: the images differ in size, or are not square.
      channels: 1 (grey), 3, or those that were asked for.
      classes: number of classes; 0: there are none.
      count: training images.
      test_count: test images.
      mean: of each channel over the training images, of values from 0 to 1.
      std: standard deviation, likewise.
      mirrors: whether an image and its mirror image mean the same, so that a view may flip it.
      domains: names of the domains, in the order of `fields["domain"]`.
      mask_classes: names of the values of `fields["mask"]` from 0 on; a value beyond them is void.
      box_classes: names of the classes of `fields["boxes"]`.
      whole_images: whether fields go with the pixels of an image, so that evaluation keeps it as it is.
      new_classes: whether the test images are of classes that the training images lack.
      licence: under which the images may be used.
      origin: who made it, and where it comes from.
    """

    side: int | None = None
    channels: int | None = None
    classes: int | None = None
    count: int | None = None
    test_count: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    mirrors: bool | None = None
    domains: tuple[str, ...] = ()
    mask_classes: tuple[str, ...] = ()
    box_classes: tuple[str, ...] = ()
    whole_images: bool = False
    new_classes: bool = False
    licence: str = ""
    origin: str = ""


class Lazy(Protocol):
    """An array [N, ...] whose rows are read when they are wanted."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One split of an image data set, held in memory or streamed.

    Attributes:
      name: the source it was loaded from.
      images: uint8 `[N, H, W, C]`, C is 1 (every image of the split is grey) or 3, or the channels that were asked
        for; or what reads them when they are wanted, then always in colour.
      labels: int32 `[N]`, -1 where unknown.
      classes: class names in label order; empty where there are none.
      fields: further arrays `[N, ...]` by name, or what reads their rows: `domain`, `clip`, `mask` `[N, H, W]`, ...
      card: the facts of the data set.
      content: a digest of what the images are, of their names and sizes or of a version, from a source that knows it
        without decoding them (which may give other pixels elsewhere); "": their pixels or names tell.
      held_out: whether they were held out of a source's training images, since it has no test images.
      span: what became 0 and 255, of pixels that were no bytes; None: they were, or have 16 bits.

    Raises:
      ValueError: the labels or a field have another length than the images.
    """

    name: str
    images: Any  # np.ndarray or lazy.Images
    labels: np.ndarray
    classes: tuple[str, ...]
    fields: Mapping[str, np.ndarray | Lazy] = dataclasses.field(default_factory=dict)
    card: Card = Card()
    content: str = ""
    held_out: bool = False
    span: Span | None = None

    def __post_init__(self) -> None:
        for name, values in {"labels": self.labels, **self.fields}.items():
            if len(values) != len(self.images):
                raise ValueError(f"{self.name} has {len(self.images)} images but {len(values)} values of '{name}'")

    def __getitem__(self, rows: Any) -> "Dataset":
        """Returns the data set of some rows: a slice, or an array of row numbers or of booleans."""
        fields = {name: values[rows] for name, values in self.fields.items()}
        return dataclasses.replace(self, images=self.images[rows], labels=self.labels[rows], fields=fields, content="")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def streamed(self) -> bool:
        """Whether the images stay on disk until they are wanted."""
        return not isinstance(self.images, np.ndarray)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image; a side of 2^31 - 1 stands for sides that differ."""
        if self.streamed:
            side = self.images.size or 2**31 - 1
            return side, side, self.images.channels
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def pictures(self, rows: np.ndarray, side: int) -> np.ndarray:
        """Some images as one array uint8 `[n, H, W, C]`; streamed ones are their centre squares, `side` pixels wide."""
        chosen = self.images[rows]
        return chosen.pictures(side) if self.streamed else chosen

    def class_name(self, label: int) -> str:
        """What a class is called; its number where classes have no names."""
        return str(self.classes[label]) if len(self.classes) else str(label)

    def names(self, rows: np.ndarray) -> np.ndarray:
        """What some images are called `[n]`: their files below the folder or in the archive, else their numbers."""
        if not self.streamed:
            return np.array([f"{row:06d}" for row in rows], dtype=str)
        return np.array([printable(self.images.files.name(row)) for row in self.images.rows[rows]], dtype=str)


@dataclasses.dataclass(frozen=True)
class Request:
    """What is wanted of a source.

    Attributes:
      split: "train" or "test".
      size: side of the square images in pixels, to which they are brought; None: as they are.
      per_class: so many images of each class, the first ones; None: all.
      max_gib: the largest array of images to make, in GiB.
      cache: folder for downloads and decoded images; None: the usual one.
      span: the values that become 0 and 255, of images whose pixels are no bytes; None: as the images say.
      channels: numbers of those that are meant, from 0; None: grey or colour.
      pages: "first" page or frame of an image; "all", each an image of its own; "channels": those of a TIFF are these.
      max_pixels: an image of more counts as unreadable.
      image: name of the feature that has the images, where a source has several.
      label: name of the feature that has the labels, likewise.
      labels: a CSV file of file names and labels; None: folders are classes.
    """

    split: str
    size: int | None = None
    per_class: int | None = None
    max_gib: float = 8.0
    cache: str | None = None
    span: Span | None = None
    channels: tuple[int, ...] | None = None
    pages: str = "first"
    max_pixels: int = MOST_PIXELS
    image: str | None = None
    label: str | None = None
    labels: str | None = None

    def __post_init__(self) -> None:
        self._check_span()
        if self.channels is not None and not (self.channels and all(type(c) is int and c >= 0 for c in self.channels)):
            raise UserError(f"data.channels is {self.channels}: give the numbers of channels, from 0, as (0,1,2,3,4).")
        if self.pages not in ("first", "all", "channels"):
            raise UserError(f"data.pages is '{self.pages}': use 'first', 'all' or 'channels'.")
        if self.pages == "channels" and self.channels is None:
            raise UserError("data.pages is 'channels': say which pages of a TIFF are meant, as data.channels=(0,1,2).")
        if self.split not in ("train", "test"):
            raise UserError(f"There is no split '{self.split}': ask for 'train' or 'test'.")
        for field in ("size", "per_class"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise UserError(f"data.{field} is {value}: set it to at least 1, or to None.")

    def _check_span(self) -> None:
        if self.span is None:
            return
        ends = [np.atleast_1d(np.asarray(end, float)) for end in self.span]
        lengths = {1, len(self.channels or (0,))}
        if not (len(ends) == 2 and {len(e) for e in ends} <= lengths and np.all(ends[0] < ends[1])):
            raise UserError(
                f"data.range is {self.span}: give the two ends of a range, as (LOW,HIGH), each a number or, with "
                "data.channels, one for each of them."
            )

    @property
    def reading(self) -> Reading:
        """How pixels are taken."""
        return Reading(self.channels, self.span, self.max_pixels, self.pages == "channels")


def check_memory(shape: tuple[int, ...], max_gib: float, where: str) -> None:
    """Raises DoesNotFit where a uint8 array of `shape` exceeds `max_gib` GiB."""
    gib = math.prod(map(float, shape)) / 2**30
    if gib > max_gib:
        raise DoesNotFit(
            f"The images of {where} need {gib:.3g} GiB ({' x '.join(map(str, shape))}), more than "
            f"max_gib = {max_gib:g}: set --config.data.size=... smaller, raise --config.data.max_gib, or set "
            "--config.data.stream=auto."
        )
