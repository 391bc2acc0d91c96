"""Pictures of what evaluations found: images beside the truth and the answers, kept in the workdir for the report."""

from collections.abc import Mapping, Sequence
import json
from typing import Any
import zipfile

from etils import epath
import numpy as np
from PIL import Image, ImageDraw

from ssl_jax.methods.contract import Picture
from ssl_jax.metrics.subset import evenly_spaced
from ssl_jax.runtime import files, processes
from ssl_jax.runtime.errors import UserError

FOLDER = "pictures"  # of the workdir
ROWS = 4  # images of a picture
_LARGEST = 160  # side of an image as it is kept, pixels


def shown(count: int) -> np.ndarray:
    """Numbers of the images, of `count`, that a picture shows."""
    return evenly_spaced(np.arange(count), ROWS)


def beside(title: str, columns: Mapping[str, np.ndarray]) -> Picture:
    """A picture of a row an image.

    Args:
      title: a sentence.
      columns: heading to images [N, H, W, 1 or 3], uint8 or floats from 0 to 1, of any sizes.
    """
    found = {name: np.stack([_small(image) for image in images]) for name, images in columns.items()}
    height, width = (max(x.shape[axis] for x in found.values()) for axis in (1, 2))
    images = np.stack([_enlarged(x, height, width) for x in found.values()], 1)
    return Picture(title, tuple(found), images)


def grid(title: str, columns: Sequence[str], images: np.ndarray, captions: Sequence[Sequence[str]]) -> Picture:
    """A picture of images of one size with a line of text under each.

    Args:
      title: a sentence.
      columns: their headings.
      images: uint8 [rows columns, H, W, C], row by row.
      captions: of each row and column.
    """
    small = np.stack([_small(image) for image in images])
    return Picture(
        title, tuple(columns), small.reshape(-1, len(columns), *small.shape[1:]), tuple(map(tuple, captions))
    )


def coloured(masks: np.ndarray, classes: int) -> np.ndarray:
    """Masks of integers [..., H, W] as colours uint8 [..., H, W, 3]; what is no class is white."""
    hue = (np.arange(classes) * 0.61803) % 1  # neighbours in number are far apart on the circle
    value = np.where(np.arange(classes) % 2, 160, 230)
    hsv = np.stack([hue * 255, np.full(classes, 190), value], -1).astype(np.uint8)[None]
    palette = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))[0]
    palette = np.concatenate([palette, np.full((1, 3), 255, np.uint8)])
    return palette[np.where((masks >= 0) & (masks < classes), masks, classes).astype(int)]


def boxed(image: np.ndarray, boxes: np.ndarray, classes: int) -> np.ndarray:
    """An image uint8 [H, W, 1 or 3] with boxes [n, 5]: top, left, bottom and right in pixels, and class."""
    found = Image.fromarray(np.ascontiguousarray(_rgb(image)))
    draw = ImageDraw.Draw(found)
    colours = coloured(np.arange(classes)[None], classes)[0]
    for *corners, kind in boxes:
        top, left, bottom, right = corners
        if right > left and bottom > top:
            draw.rectangle((left, top, right, bottom), outline=tuple(map(int, colours[int(kind)])), width=2)
    return np.asarray(found)


def store(workdir: str, name: str, key: str, pictures: Sequence[Picture]) -> str | None:
    """Writes the pictures of an evaluation, replacing those that it left before.

    Args:
      workdir: of the run.
      name: of the evaluation.
      key: of the weights and images.
      pictures: maybe none.

    Returns:
      the name of the file below the workdir; None where there is nothing to show.

    Raises:
      UserError: it cannot be written.
    """
    if not pictures:
        return None
    file = f"{FOLDER}/{name}-{key}.npz"
    if not processes.first():
        return file
    path = epath.Path(workdir) / file
    words = [{"title": p.title, "columns": p.columns, "captions": p.captions} for p in pictures]
    arrays: dict[str, Any] = {f"images{i}": _bytes(p.images) for i, p in enumerate(pictures)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as out:
            np.savez_compressed(out, words=np.frombuffer(json.dumps(words).encode(), np.uint8), **arrays)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): make the workdir writable.") from error
    return file


def load(path: epath.Path) -> list[Picture] | None:
    """What `store` wrote; None where the file is not there or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return [
                Picture(
                    words["title"],
                    tuple(words["columns"]),
                    arrays[f"images{i}"] / 255.0,
                    tuple(map(tuple, words["captions"])),
                )
                for i, words in enumerate(json.loads(arrays["words"].tobytes()))
            ]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None


def _bytes(images: np.ndarray) -> np.ndarray:
    """Images as uint8, from floats of 0 to 1 where they are none."""
    images = np.asarray(images)
    return images if images.dtype == np.uint8 else (images.clip(0, 1) * 255).round().astype(np.uint8)


def _rgb(image: np.ndarray) -> np.ndarray:
    """Three channels: the first three, or the first one as grey."""
    return image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, -1)


def _small(image: np.ndarray) -> np.ndarray:
    """An image as uint8 [h, w, 3], of at most `_LARGEST` pixels a side."""
    found = Image.fromarray(np.ascontiguousarray(_rgb(_bytes(image))))
    found.thumbnail((_LARGEST, _LARGEST))
    return np.asarray(found)


def _enlarged(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Images uint8 [N, h, w, 3] in another size, their pixels as squares."""
    resized = (Image.fromarray(x).resize((width, height), Image.Resampling.NEAREST) for x in images)
    return np.stack([np.asarray(x) for x in resized])
