"""Decodes image files to uint8 arrays."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
import itertools
import sys
import warnings

import joblib
import numpy as np
from PIL import Image
import tqdm

from ssl_jax.data.dataset import DoesNotFit, Request, check_memory
from ssl_jax.data.files import Reader, retry
from ssl_jax.data.pixels import planes
from ssl_jax.data.reading import AS_IS, Reading
from ssl_jax.runtime.errors import UserError

_STRIP = 8  # of a longer strip only the middle is resized: the rest costs time and memory, and is cropped
PROGRESS_FROM = 2000  # fewer images than this are decoded before a progress bar is of use


def decode(data: bytes, size: int | None = None, reading: Reading = AS_IS, page: int = 0) -> np.ndarray:
    """Decodes one image file, upright as its EXIF orientation says.

    Args:
      data: the bytes of the file.
      size: side in pixels of the result; None keeps the image's own size.
      reading: how its pixels are taken.
      page: number of the page or frame.

    Returns:
      uint8 `[H, W, 1]` for a grey image, `[H, W, 3]` for others (transparency is dropped), or `[H, W, C]` of the
      channels that `reading` names.

    Raises:
      Exception: whatever Pillow meets in a damaged file.
    """
    return stacked([np.asarray(fit(plane, size) if size else plane) for plane in planes(data, reading, page)])


def stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    """One image `[H, W, C]` of its planes, each `[H, W]` or `[H, W, 3]`."""
    parts = [part[..., None] if part.ndim == 2 else part for part in parts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def fit(image: Image.Image, size: int, filter: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    """Resizes the short side to `size` pixels (antialiased) and crops the centre square."""
    width, height = image.size
    short = min(width, height)
    if max(width, height) > _STRIP * short:
        # As many pixels go on either side, so that the centre stays where it is.
        left, top = (max(0, side - _STRIP * short) // 2 for side in (width, height))
        image = image.crop((left, top, width - left, height - top))
        width, height = image.size
    width, height = size * width // short, size * height // short
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), filter)
    return resized.crop((left, top, left + size, top + size))


def decode_all(
    items: Iterable[tuple[int, str, Reader]],
    count: int,
    request: Request,
    where: str,
    pages: Sequence[int] | None = None,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Decodes images in parallel into one array.

    Args:
      items: row in the result, name, and a function that gives the bytes of the file.
      count: how many items there are.
      request: the size, the memory limit, and how pixels are taken.
      where: the source, for messages.
      pages: of each row; None: the first.

    Returns:
      images uint8 `[M, H, W, C]` in the order of their rows, the rows int `[M]` that could be read, and the
      names of the others, the first with the reason.

    Raises:
      UserError: several sizes without `size`, too much memory, or nothing that can be read.
    """
    images, first, reason = np.zeros((0, 0, 0, 0), np.uint8), "", ""
    good, skipped = np.zeros(count, bool), {}
    for row, name, pixels in tqdm.tqdm(
        _decoded(items, request, pages),
        total=count,
        desc=f"decoding {where}",
        unit="img",
        disable=count < PROGRESS_FROM or not sys.stderr.isatty(),
    ):
        if isinstance(pixels, Exception):
            told = " ".join(str(pixels).split())[:150] or type(pixels).__name__
            skipped[row] = name if reason else f"{name} ({told})"
            reason = reason or f"{name}: {told}"
            continue
        if not first:
            check_memory((count, *pixels.shape), request.max_gib, where)
            images, first = np.zeros((count, *pixels.shape), np.uint8), name
        if pixels.shape[:2] != images.shape[1:3]:
            raise DoesNotFit(
                f"The images of {where} differ in size ({first}: {_size(images[0])}, {name}: "
                f"{_size(pixels)}): set --config.data.size=... to resize and crop them, or --config.data.stream=auto."
            )
        if pixels.shape[2] > images.shape[3]:  # the first colour image after grey ones
            check_memory((count, *pixels.shape), request.max_gib, where)
            images = np.repeat(images, 3, axis=3)
        images[row], good[row] = pixels, True
    if not first:
        raise UserError(f"None of the {count} images in {where} can be read ({reason}).")
    rows = np.flatnonzero(good)
    return images if good.all() else images[rows], rows, [skipped[row] for row in sorted(skipped)]


def _decoded(
    items: Iterable[tuple[int, str, Reader]], request: Request, pages: Sequence[int] | None
) -> Iterator[tuple[int, str, np.ndarray | Exception]]:
    """Decodes in threads (Pillow releases the interpreter), a bounded number of images ahead."""

    def one(item: tuple[int, str, Reader]) -> tuple[int, str, np.ndarray | Exception]:
        row, name, read = item
        try:
            page = 0 if pages is None else pages[row]
            return row, name, decode(retry(read, name), request.size, request.reading, page)
        except (MemoryError, UserError):
            raise
        except Exception as error:  # Pillow's readers raise anything at all on damaged files
            return row, name, error

    workers = joblib.cpu_count()
    items = iter(items)
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        # Remarks on odd metadata; what cannot be read is counted and named by the caller.
        warnings.filterwarnings("ignore", module="PIL")
        while batch := list(itertools.islice(items, 32 * workers)):
            yield from pool.map(one, batch)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
