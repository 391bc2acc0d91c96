"""How the pixels of a file are taken, and how many there may be."""

import dataclasses

Ends = float | tuple[float, ...]  # one value, or one a channel
Span = tuple[Ends, Ends]
MOST_PIXELS = 179_000_000


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the pixels of a file are taken.

    Attributes:
      channels: numbers of those that are meant, from 0; None: grey or colour, as it is, without transparency.
      span: what becomes 0 and what 255 of pixels that are no bytes; None: those of 16 bits without sign.
      max_pixels: an image of more is refused.
      stacked: whether the channels of a TIFF of several pages are these pages, each of a single channel.
    """

    channels: tuple[int, ...] | None = None
    span: Span | None = None
    max_pixels: int = MOST_PIXELS
    stacked: bool = False


AS_IS = Reading()


def check_size(width: int, height: int, reading: Reading) -> None:
    """Refuses an image that has too many pixels.

    Raises:
      ValueError: it has.
    """
    if width * height > reading.max_pixels:
        raise ValueError(f"{width} x {height} pixels are more than data.max_pixels, {reading.max_pixels}")
