"""The pixels of an image file as bytes, whatever their number of channels and their depth.

Pillow reads grey and colour, and HEIC where pillow-heif is installed. Where `data.channels` says which channels are
meant, any of Pillow's are taken as they are, TIFF is read by tifffile, which knows any number of them, and `.npy` and
`.npz` hold arrays [H, W] or [H, W, C].
"""

from collections.abc import Iterator
import contextlib
import importlib.util
import io
import sys
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ssl_jax.data.array_files import NPY, NPZ, TIFF, stored, tiff, tiff_file
from ssl_jax.data.reading import Reading, Span, check_size

if importlib.util.find_spec("pillow_heif"):
    import pillow_heif

    pillow_heif.register_heif_opener()

DEEP = ("F", "I", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes of more than eight bits a pixel
_WHOLE: Span = (0.0, 65535.0)
_TILES = "ssl_jax tiles"
_LOW = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}  # of two bytes takes the other one


def is_picture(data: bytes, reading: Reading) -> bool:
    """Whether a file is read as grey or colour by Pillow, so that a JPEG may be decoded at a smaller scale."""
    return reading.channels is None and not data.startswith((NPY, NPZ))


def planes(data: bytes, reading: Reading, page: int = 0) -> list[Image.Image]:
    """The channels of a file as images of mode "L", upright as its EXIF data say; grey or colour as a single image.

    Args:
      data: bytes of the file.
      reading: how they are taken.
      page: number of the page or frame.

    Raises:
      Exception: whatever a damaged file makes its reader raise; a ValueError says what is not supported.
      UserError: a package is missing.
    """
    if is_picture(data, reading):
        with opened(data, reading, page) as image:
            return [picture(image, data, reading, page)]
    return as_planes(to_bytes(chosen(values_of(data, reading, page), reading.channels), reading.span))


def as_planes(pixels: np.ndarray) -> list[Image.Image]:
    """Bytes [H, W, C] as images of one channel each, but of grey or colour as one."""
    count = pixels.shape[-1]
    if count == 3:
        return [Image.fromarray(np.ascontiguousarray(pixels))]
    return [Image.fromarray(np.ascontiguousarray(pixels[..., c])) for c in range(count)]


@contextlib.contextmanager
def opened(data: bytes, reading: Reading, page: int = 0) -> Iterator[Image.Image]:
    """Opens what Pillow reads at one of its pages.

    Raises:
      ValueError: it is too large, or a TIFF of other channels.
    """
    if Image.MAX_IMAGE_PIXELS is not None and reading.max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = reading.max_pixels  # Pillow's own limit, for all of this process
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        if data[:4] not in TIFF:
            raise ValueError(f"cannot identify an image in its {len(data)} bytes") from error
        raise ValueError("Pillow reads it neither as grey nor as colour: say which channels, data.channels") from error
    with image:
        if page:
            image.seek(page)
        check_size(image.width, image.height, reading)
        image.info[_TILES] = getattr(image, "tile", [])  # which reading the EXIF data of a PNG may use up
        yield image


def picture(image: Image.Image, data: bytes, reading: Reading, page: int = 0) -> Image.Image:
    """An opened image upright in mode "L" or "RGB": transparency is dropped, deeper pixels become bytes."""
    values = deep(image, data, page)
    if values is not None:
        return Image.fromarray(to_bytes(values, reading.span))
    image = upright(image)
    if image.mode in ("L", "RGB"):
        image.load()  # while its file is open
        return image
    return image.convert("L" if image.mode in ("1", "LA") else "RGB")


def upright(image: Image.Image) -> Image.Image:
    """An image turned as its EXIF data say."""
    return image if image.getexif().get(0x0112, 1) == 1 else ImageOps.exif_transpose(image)


def deep(image: Image.Image, data: bytes, page: int = 0) -> np.ndarray | None:
    """The pixels [H, W] or [H, W, 3] of an image of more than eight bits a channel; None where it has no more.

    Pillow gives only the upper byte of colour. A second look at the file, at the lower byte, makes up for it.

    Args:
      image: as `opened` gives it.
      data: bytes of the file.
      page: of the image.
    """
    if image.mode in DEEP:
        tags = getattr(image, "tag_v2", {})  # bits a sample, and whether it has a sign
        unsigned = image.mode == "I" and tags.get(258) == (32,) and tags.get(339, (1,)) == (1,)
        values = np.asarray(upright(image))
        return values.view(np.uint32) if unsigned else values  # Pillow has no such mode
    coding = _coding(image)
    if coding == "LA;16B":
        pairs = np.asarray(upright(_recoded(data, page, "RGBA", "RGBA")), np.uint16)
        return pairs[..., 0] * 256 + pairs[..., 1]
    if coding[-1:] in _LOW and coding[:-1].endswith(";16"):
        low = _recoded(data, page, image.mode, coding[:-1] + _LOW[coding[-1]])
        high = np.asarray(upright(image), np.uint16)[..., :3]
        return high * 256 + np.asarray(upright(low))[..., :3]
    tiles = _tiles(image)
    if data.startswith(b"P6") and tiles and image.mode == "RGB" and _most(tiles) > 255:
        values = np.frombuffer(data, ">u2", image.width * image.height * 3, tiles[0][2])
        return values.reshape(image.height, image.width, 3)
    return None


def _coding(image: Image.Image) -> str:
    """How pixels lie in the file, in Pillow's words, as 'RGB;16B'."""
    tiles = _tiles(image)
    arguments = tiles[0][3] if tiles else ""
    found = arguments[0] if isinstance(arguments, tuple) else arguments
    return found if isinstance(found, str) else ""


def _tiles(image: Image.Image) -> list[Any]:
    """What Pillow has yet to decode: name of the decoder, box, offset in the file, arguments."""
    return image.info.get(_TILES, [])


def _most(tiles: list[Any]) -> int:
    """The largest value that a .ppm file says it has."""
    arguments = tiles[0][3]
    return arguments[-1] if isinstance(arguments, tuple) and isinstance(arguments[-1], int) else 255


def _recoded(data: bytes, page: int, mode: str, coding: str) -> Image.Image:
    """The image of a file whose pixels are taken for those of another mode and coding."""
    image: Any = Image.open(io.BytesIO(data))
    if page:
        image.seek(page)
    image._mode = mode
    image.tile = [
        (name, box, offset, (coding, *rest[1:]) if isinstance(rest, tuple) else coding)
        for name, box, offset, rest in image.tile
    ]
    image.load()
    return image


def pages(data: bytes, reading: Reading) -> int:
    """How many pages or frames a file has; errors as of `planes`."""
    if data.startswith((NPY, NPZ)):
        return 1
    if data[:4] in TIFF and reading.channels is not None:
        with tiff_file(data) as file:
            return len(file.pages)
    with opened(data, reading) as image:
        return getattr(image, "n_frames", 1)


def values_of(data: bytes, reading: Reading, page: int = 0) -> np.ndarray:
    """All channels of a file as numbers [H, W, C].

    Raises:
      ValueError: it holds no such array.
      UserError: tifffile is missing.
    """
    if data.startswith((NPY, NPZ)):
        values = stored(data, reading)
    elif data[:4] in TIFF and reading.channels is not None:
        values = tiff(data, reading, page)
    else:
        with opened(data, reading, page) as image:
            found = deep(image, data, page)
            shown = image.convert("RGB") if image.mode == "P" else image
            values = np.asarray(upright(shown)) if found is None else found
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or not values.size or values.dtype.kind not in "buif":
        raise ValueError(f"it holds {values.dtype} {list(values.shape)} where numbers [H, W, C] are due")
    check_size(values.shape[1], values.shape[0], reading)
    return values


def chosen(values: np.ndarray, channels: tuple[int, ...] | None) -> np.ndarray:
    """The channels that are meant.

    Raises:
      ValueError: there are not so many; or, where none are named, neither one nor three.
    """
    count = values.shape[-1]
    if channels is None:
        if count not in (1, 3):
            raise ValueError(f"it has {count} channels: say which, data.channels")
        return values
    if max(channels) >= count:
        raise ValueError(f"it has {count} channel(s), and data.channels has number {max(channels)}")
    return values[..., list(channels)]


def to_bytes(values: np.ndarray, span: Span | None) -> np.ndarray:
    """Numbers [H, W] or [H, W, C] as uint8: what is no byte is brought from a range to 0 to 255.

    Raises:
      ValueError: they are floating point, and there is no span.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if values.dtype.kind == "f" and span is None:
        raise ValueError("floating-point pixels have no known range: set data.range")
    if values.dtype.kind == "f" and not np.isfinite(values).any():
        raise ValueError("none of its pixels is a number")
    low, high = (np.asarray(end, np.float64) for end in span or _WHOLE)
    shares = (np.where(np.isnan(values), low, values) - low) / (high - low)
    return (np.clip(shares, 0, 1) * 255 + 0.5).astype(np.uint8)
