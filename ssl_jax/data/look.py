"""What some images of a data set say about all: the range of deep pixels, and what is not used of their files."""

from collections.abc import Iterator, Sequence
import dataclasses
import json
import logging
from typing import Any

import numpy as np
from PIL import Image

from ssl_jax.data import pixels
from ssl_jax.data.dataset import Request
from ssl_jax.data.files import Reader
from ssl_jax.data.reading import Reading, Span
from ssl_jax.runtime.errors import UserError

_FEW, _MANY = 16, 64  # images that are looked at for deep pixels, and if there are any, for their range
_SAMPLE = 100_000  # values of an image, at most
_PAGED = "some images have several frames or pages, of which the first is used (--config.data.pages=all)"
_BANDS = "some images have {} channels, of which the first three are used; --config.data.channels chooses"
_SHALLOW = "some images have more than eight bits a channel, of which Pillow reads eight"

log = logging.getLogger("ssl_jax")


@dataclasses.dataclass(frozen=True)
class Look:
    """What was found: the range of pixels that are no bytes, None where they need none; and sentences for people."""

    span: Span | None
    notes: tuple[str, ...]

    def stored(self) -> dict[str, np.ndarray]:
        """As arrays for a cache."""
        return {"look": np.array(json.dumps([self.span, self.notes]))}


def read_back(stored: dict[str, np.ndarray]) -> Look:
    """A `Look` from its arrays."""
    span, notes = json.loads(str(stored["look"]))
    return Look(tupled(span), tuple(notes))


def tupled(value: Any) -> Any:
    """Lists of lists, as JSON has them, as tuples."""
    return tuple(map(tupled, value)) if isinstance(value, list | tuple) else value


def look(read: Sequence[Reader], request: Request) -> Look:
    """Looks at some images, evenly spread.

    Whole numbers from 0 on span 8, 10, 12, 14 or 16 bits; others all but a thousandth of the values at either end. Of
    channels that the request names each has a range of its own.

    Args:
      read: give the bytes of the images, in order.
      request: what is wanted of them.

    Raises:
      UserError: what reading them raises.
    """
    found: list[np.ndarray] = []
    notes: dict[str, None] = {}
    for count in (_FEW, _MANY):
        for row in np.unique(np.linspace(0, len(read) - 1, min(count, len(read))).astype(int)):
            try:
                data = read[row]()
                notes |= dict.fromkeys(_notes(data, request))
                values = _deep(data, request.reading)
            except UserError:
                raise
            except Exception:  # damaged, which decoding says
                continue
            if values is not None:
                found.append(values)
        if not found:
            break
    channels = {values.shape[-1] for values in found}
    if not found or (len(channels) > 1 and request.channels is not None):
        return Look(None, tuple(notes))
    if request.channels is None:
        return Look(_span([values.reshape(-1) for values in found]), tuple(notes))
    ends = [_span([v[:, c] for v in found], always=True) or (0.0, 1.0) for c in range(len(request.channels))]
    return Look((tuple(low for low, _ in ends), tuple(high for _, high in ends)), tuple(notes))


def _deep(data: bytes, reading: Reading) -> np.ndarray | None:
    """Some of the values [N, C] of an image that are no bytes; None where they are."""
    if pixels.is_picture(data, reading):
        with pixels.opened(data, reading) as image:
            values = pixels.deep(image, data)
    else:
        values = pixels.chosen(pixels.values_of(data, reading), reading.channels)
    if values is None or values.dtype in (np.uint8, np.bool_):
        return None
    values = values.reshape(values.shape[0] * values.shape[1], -1)
    return values[:: max(1, values.size // _SAMPLE)]


def _span(parts: list[np.ndarray], always: bool = False) -> tuple[float, float] | None:
    """The range of some values; None where it is that of 16 bits, unless it is wanted `always`, or there are none."""
    values = np.concatenate(parts)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    whole = values.dtype.kind in "ui"
    if whole and values.min() >= 0 and values.max() < 2**16:
        high = float(next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if values.max() < 2**bits))
        return None if high == 65535 and not always else (0.0, high)
    if not whole and values.min() >= 0 and values.max() <= 1:
        return 0.0, 1.0
    low, high = (float(f"{v:.3g}") for v in np.percentile(values, (0.1, 99.9)))
    return low, high if high > low else low + 1


def _notes(data: bytes, request: Request) -> Iterator[str]:
    """What is not used of a file."""
    if not pixels.is_picture(data, request.reading):
        return
    with pixels.opened(data, request.reading) as image:
        if request.pages == "first" and getattr(image, "n_frames", 1) > 1:
            yield _PAGED
        tags = getattr(image, "tag_v2", {})
        bands = tags.get(277, 1)  # samples a pixel, of which an extra one may be transparency
        if bands > 4 or (bands == 4 and image.mode == "RGB" and 0 in np.atleast_1d(tags.get(338, (1,)))):
            yield _BANDS.format(bands)
        if image.mode in ("RGB", "RGBA") and _bits(image, data) > 8:
            yield _SHALLOW


def _bits(image: Image.Image, data: bytes) -> int:
    """Bits a channel of the kinds of file whose depth Pillow hides."""
    if image.format == "JPEG2000" and (at := data.find(b"ihdr")) >= 0:
        return (data[at + 14] & 0x7F) + 1
    if image.format == "HEIF":
        return image.info.get("bit_depth", 8)
    if image.format == "AVIF" and (at := data.find(b"av1C")) >= 0:
        return 10 if data[at + 6] & 0x40 else 8
    return 8


def known(found: Look, request: Request, place: str) -> Request:
    """The request with the range of what was found where it says none; says what is not as its user may think.

    Args:
      found: from `look`.
      request: what is wanted.
      place: the source, for messages.
    """
    first = request.split == "train"
    for note in found.notes if first else ():
        log.warning("%s: %s", place, note)
    if request.span is not None or found.span is None:
        return request
    if first:
        low, high = (", ".join(f"{end:g}" for end in np.atleast_1d(ends)) for ends in found.span)
        log.warning(
            "%s: pixels from %s to %s become 0 to 255; --config.data.range=(LOW,HIGH) chooses others, and (0,65535) is "
            "what earlier versions took",
            place,
            low,
            high,
        )
    return dataclasses.replace(request, span=found.span)
