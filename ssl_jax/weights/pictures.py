"""Image files and Pillow images as the arrays that a backbone is called on."""

from collections.abc import Sequence
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from ssl_jax.data import crop, pixels
from ssl_jax.data.crop import Crop
from ssl_jax.data.reading import Reading
from ssl_jax.runtime.errors import UserError


def as_array(images: Any, side: int, channels: int, reading: Reading) -> np.ndarray:
    """Images as an array [N, H, W, C].

    Args:
      images: an array, which is returned as it is; or a path or a Pillow image, or a list of these, of any sizes.
      side: of the centre square that a path or a Pillow image becomes, pixels.
      channels: that the network takes: grey is repeated, and colour becomes its luma.
      reading: how pixels are taken.

    Raises:
      UserError: something else, or a file that cannot be read; names it.
    """
    one = isinstance(images, str | os.PathLike | Image.Image)
    if not one and not (isinstance(images, list | tuple) and any(map(_is_picture, images))):
        return _plain(images)
    parts: Sequence[Any] = [images] if one else images
    return np.stack([as_seen(_square(part, side, reading)[None], channels)[0] for part in parts])


def _is_picture(part: Any) -> bool:
    return isinstance(part, str | os.PathLike | Image.Image)


def _plain(images: Any) -> np.ndarray:
    try:
        found = np.asarray(images)
    except ValueError as error:  # a list of arrays of several sizes
        raise UserError(f"Images must be [N, H, W, C]: {error}.") from error
    if found.dtype.kind not in "biuf":
        raise UserError(
            f"Images are of type {type(images).__name__}: give an array [N, H, W, C], paths, or Pillow images."
        )
    return found


def centre(side: int) -> crop.Place:
    """Places the centre square of an image, resized to `side` pixels."""

    def place(height: int, width: int) -> list[Crop]:
        short = min(height, width)
        return [Crop((height - short) // 2, (width - short) // 2, short, short, side)]

    return place


def _square(part: Any, side: int, reading: Reading) -> np.ndarray:
    """The centre square of one image, uint8 [side, side, C]."""
    if not _is_picture(part):
        raise UserError(
            f"A list of images has a {type(part).__name__} beside paths or Pillow images: give these alone."
        )
    try:
        if not isinstance(part, Image.Image):
            return crop.cut(pathlib.Path(part).read_bytes(), centre(side), None, reading)[0]
        if reading.channels is None:
            planes = [pixels.picture(part, b"", reading)]
        else:
            values = np.atleast_3d(np.asarray(part))
            planes = pixels.as_planes(pixels.to_bytes(pixels.chosen(values, reading.channels), reading.span))
        return crop.cut_out(planes, centre(side)(part.height, part.width))[0]
    except UserError:
        raise
    except Exception as error:  # Pillow's readers raise anything at all on damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"The image {part} cannot be read ({reason}).") from error


def as_seen(images: np.ndarray, channels: int) -> np.ndarray:
    """Images with the channels that a backbone wants: grey is repeated, colour becomes its luma (ITU-R 601).

    Others stay as they are.
    """
    have = images.shape[-1]
    if have == 1 and channels == 3:
        return np.repeat(images, 3, axis=-1)
    if have == 3 and channels == 1:
        return np.round(images @ np.array([0.299, 0.587, 0.114]))[..., None].astype(np.uint8)
    return images
