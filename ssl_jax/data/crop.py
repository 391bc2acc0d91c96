"""Cutting resized crops out of an encoded image: decoded once, at reduced scale where no crop notices."""

from collections.abc import Callable
import functools
import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from ssl_jax.data import pixels
from ssl_jax.data.decode import fit, stacked
from ssl_jax.data.reading import AS_IS, Reading

try:  # the same filters as Pillow's in SIMD, three to five times as fast; its wheels are for x86-64
    import cykooz_resizer as simd
except ImportError:
    simd = None

# EXIF orientations that turn an image on its side.
_SIDEWAYS = (5, 6, 7, 8)


class Crop(NamedTuple):
    """A box of an image in pixels, which may reach beyond it, and the side of the square that it becomes."""

    top: float
    left: float
    height: float
    width: float
    side: int
    interpolation: str = "bilinear"  # or 'bicubic'
    antialias: bool = True  # where the crop shrinks


Place = Callable[[int, int], list[Crop]]  # the crops of an image of that height and width


def cut(
    data: bytes,
    place: Place,
    size: int | None = None,
    reading: Reading = AS_IS,
    page: int = 0,
) -> list[np.ndarray]:
    """Decodes an image once and cuts crops out of it.

    They are what `geometry.resized_crop` makes of the decoded image in floating point, up to rounding (below 1/255 on
    average); of a JPEG decoded at reduced scale, 2/255 or so on photographs full of detail.

    Args:
      data: bytes of the file.
      place: gives the crops of an image of that height and width, upright as its EXIF orientation says.
      size: first resize the short side to so many pixels and crop the centre, as `decode.decode` does.
      reading: how its pixels are taken.
      page: number of the page or frame.

    Returns:
      uint8 `[side, side, 3]` a crop; grey images get three equal channels, transparency is dropped. Where `reading`
      names channels, `[side, side, C]` of these.

    Raises:
      Exception: whatever Pillow meets in a damaged file.
    """
    if reading.channels is not None:
        planes = pixels.planes(data, reading, page)
        crops, shrunk = place(*((size, size) if size else planes[0].size[::-1])), 1
    else:
        planes, crops, shrunk = _colour(data, place, size, reading, page)
    if size:
        planes, shrunk = [fit(plane, size) for plane in planes], 1
    return cut_out(planes, crops, shrunk)


def cut_out(planes: list[Image.Image], crops: list[Crop], shrunk: int = 1) -> list[np.ndarray]:
    """Cuts crops out of the planes of an image that was decoded `shrunk` times smaller than their pixels."""
    return [stacked([_resized(plane, crop, shrunk) for plane in planes]) for crop in crops]


def _colour(
    data: bytes, place: Place, size: int | None, reading: Reading, page: int
) -> tuple[list[Image.Image], list[Crop], int]:
    """The image in colour, its crops, and how many times smaller than their pixels it was decoded."""
    if not pixels.is_picture(data, reading):
        image = pixels.planes(data, reading, page)[0].convert("RGB")
        return [image], place(*((size, size) if size else image.size[::-1])), 1
    with pixels.opened(data, reading, page) as opened:
        width, height = opened.size
        orientation = opened.getexif().get(0x0112, 1)
        if orientation in _SIDEWAYS:
            width, height = height, width
        crops = place(*((size, size) if size else (height, width)))
        # Of an image that is fitted first, the short side must suffice.
        scale = draft_scale([Crop(0, 0, min(height, width), min(height, width), size)] if size else crops)
        reduced = scale > 1 and opened.format == "JPEG"
        if reduced:
            # Rounded down, so that Pillow takes exactly this scale.
            reduced = opened.draft(None, (opened.width // scale, opened.height // scale)) is not None
        image = pixels.picture(opened, data, reading, page)
        image = image if image.mode == "RGB" else image.convert("RGB")
        image.load()
    return [image], crops, scale if reduced else 1


def draft_scale(crops: list[Crop]) -> int:
    """Returns 1, 2, 4 or 8: the most by which an image may shrink before any crop would have to be enlarged.

    A crop that is not antialiased wants the pixels as they are.
    """
    room = min(min(crop.height, crop.width) / crop.side if crop.antialias else 1.0 for crop in crops)
    return max(scale for scale in (1, 2, 4, 8) if scale <= max(room, 1))


def _resized(image: Image.Image, crop: Crop, shrunk: int) -> np.ndarray:
    """One crop of an image that was decoded `shrunk` times smaller than the crop's pixels."""
    top, left, height, width = (length / shrunk for length in crop[:4])
    # Cut before it is resized: the filter must not see what is outside. Zeros where the box reaches beyond the image.
    outer = (math.floor(left), math.floor(top), math.ceil(left + width), math.ceil(top + height))
    part = image.crop(outer)
    if part.size == (crop.side, crop.side) and (height, width) == part.size:
        return np.asarray(part)
    box = (left - outer[0], top - outer[1], width, height)
    if not crop.antialias:
        rows = _interpolated(np.atleast_3d(np.asarray(part, np.float32)), box[1], height, crop)
        both = _interpolated(rows.swapaxes(0, 1), box[0], width, crop).swapaxes(0, 1)
        return np.clip(np.rint(both), 0, 255).astype(np.uint8)
    if simd is None:
        return _resize_pillow(part, box, crop)
    return _resize_simd(part, box, crop)


def _resize_pillow(part: Image.Image, box: tuple[float, ...], crop: Crop) -> np.ndarray:
    left, top, width, height = box
    how = Image.Resampling.BILINEAR if crop.interpolation == "bilinear" else Image.Resampling.BICUBIC
    return np.asarray(part.resize((crop.side, crop.side), how, box=(left, top, left + width, top + height)))


def _resize_simd(part: Image.Image, box: tuple[float, ...], crop: Crop) -> np.ndarray:
    # Catmull-Rom is the cubic with a = -0.5, which Pillow calls bicubic.
    kind = simd.FilterType.bilinear if crop.interpolation == "bilinear" else simd.FilterType.catmull_rom
    how = simd.ResizeAlg.convolution(kind)
    target = Image.new(part.mode, (crop.side, crop.side))
    # From image to image: raw pixels would have to be packed first, which takes as long as the resizing.
    simd.Resizer().resize_pil(
        part, target, simd.ResizeOptions(resize_alg=how, use_alpha=False, crop_box=simd.CropBox(*box))
    )
    return np.asarray(target)


def _interpolated(pixels: np.ndarray, start: float, length: float, crop: Crop) -> np.ndarray:
    """Resamples the first axis [N, ...] to [side, ...] without antialiasing, which neither library offers."""
    centre = start + (np.arange(crop.side) + 0.5) * length / crop.side
    reach = 1 if crop.interpolation == "bilinear" else 2
    index = np.floor(centre - 0.5).astype(int)[:, None] + np.arange(1 - reach, 1 + reach)
    x = np.abs(index + 0.5 - centre[:, None])
    # The cubic has a = -0.5, as that of `geometry.resize_matrix`.
    weights = 1 - x if reach == 1 else np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2)
    weights = np.where((index >= start) & (index < start + length), weights, 0)
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    index = np.clip(index, 0, len(pixels) - 1)
    taps = [w.reshape(-1, 1, 1) * pixels[i] for w, i in zip(weights.T, index.T, strict=True)]
    return functools.reduce(np.add, taps)
