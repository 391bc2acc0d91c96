"""Decodes image files to uint8 arrays."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
import io
import itertools
import sys
import warnings

import joblib
import numpy as np
from PIL import Image, ImageOps
import tqdm

from ssl_jax.data.dataset import DoesNotFit, Request, check_memory
from ssl_jax.data.files import Reader, retry
from ssl_jax.runtime.errors import UserError

Span = tuple[float, float]

DEEP = ("F", "I", "I;16", "I;16L", "I;16B", "I;16N")  # modes of more than eight bits a pixel
_WHOLE = (0.0, 65535.0)
_FEW, _MANY = 16, 64  # images that are looked at for deep pixels, and if there are any, for their range
_STRIP = 8  # of a longer strip only the middle is resized: the rest costs time and memory, and is cropped
PROGRESS_FROM = 2000  # fewer images than this are decoded before a progress bar is of use


def decode(data: bytes, size: int | None = None, span: Span | None = None) -> np.ndarray:
    """Decodes one image file, upright as its EXIF orientation says.

    Args:
      data: the bytes of the file.
      size: side in pixels of the result; None keeps the image's own size.
      span: as for `eight_bits`.

    Returns:
      uint8 `[H, W, 1]` for a grey image, else `[H, W, 3]`. Transparency is dropped, and so are all frames or pages but
      the first.

    Raises:
      Exception: whatever Pillow meets in a damaged file.
    """
    with Image.open(io.BytesIO(data)) as opened:
        image = eight_bits(ImageOps.exif_transpose(opened), span)
    pixels = np.asarray(fit(image, size) if size else image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def eight_bits(image: Image.Image, span: Span | None = None) -> Image.Image:
    """Brings an image to mode "L" or "RGB": transparency is dropped, deeper pixels become bytes.

    Args:
      image: of any mode.
      span: what becomes 0 and what 255 of pixels that are no bytes; None: those of 16 bits without sign.

    Raises:
      ValueError: it has floating-point pixels, and no span.
    """
    if image.mode in ("L", "RGB"):
        return image
    if image.mode == "F" and span is None:
        raise ValueError("floating-point pixels have no known range: set data.range")
    if image.mode in DEEP:
        low, high = span or _WHOLE
        values = np.nan_to_num(np.asarray(image, np.float64), nan=low)
        return Image.fromarray((np.clip((values - low) / (high - low), 0, 1) * 255 + 0.5).astype(np.uint8))
    return image.convert("L" if image.mode in ("1", "LA") else "RGB")


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


def span_of(read: Sequence[Reader]) -> tuple[Span | None, bool]:
    """Finds out what the deep pixels of a data set span, from some of its images.

    Args:
      read: give the bytes of the images, in order.

    Returns:
      the span, which is None where `eight_bits` needs none; and whether an image has several frames or pages. Whole
      numbers from 0 on span 8, 10, 12, 14 or 16 bits; others all but a thousandth of the values at either end.

    Raises:
      UserError: what reading them raises.
    """
    found: list[np.ndarray] = []
    paged = whole = False
    for count in (_FEW, _MANY):
        for row in np.unique(np.linspace(0, len(read) - 1, min(count, len(read))).astype(int)):
            try:
                with Image.open(io.BytesIO(read[row]())) as image:
                    paged = paged or getattr(image, "n_frames", 1) > 1
                    if image.mode in DEEP:
                        whole = image.mode != "F"
                        found.append(np.asarray(image).ravel()[:: max(1, image.width * image.height // 100_000)])
            except UserError:
                raise
            except Exception:  # damaged, which decoding says
                continue
        if not found:
            return None, paged
    values = np.concatenate(found)
    values = values[np.isfinite(values)]
    if not len(values):
        return None, paged
    if whole and values.min() >= 0:
        high = float(next((2**bits - 1 for bits in (8, 10, 12, 14) if values.max() < 2**bits), 65535))
        return (None if high == _WHOLE[1] else (0.0, high)), paged
    if not whole and values.min() >= 0 and values.max() <= 1:
        return (0.0, 1.0), paged
    low, high = (float(f"{v:.3g}") for v in np.percentile(values, (0.1, 99.9)))
    return (low, high if high > low else low + 1), paged


def decode_all(
    items: Iterable[tuple[int, str, Reader]], count: int, request: Request, where: str
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Decodes images in parallel into one array.

    Args:
      items: row in the result, name, and a function that gives the bytes of the file.
      count: how many items there are.
      request: the size and the memory limit.
      where: the source, for messages.

    Returns:
      images uint8 `[M, H, W, C]` in the order of their rows, the rows int `[M]` that could be read, and the
      names of the others.

    Raises:
      UserError: several sizes without `size`, too much memory, or nothing that can be read.
    """
    images, first, reason = np.zeros((0, 0, 0, 0), np.uint8), "", ""
    good, skipped = np.zeros(count, bool), {}
    for row, name, pixels in tqdm.tqdm(
        _decoded(items, request),
        total=count,
        desc=f"decoding {where}",
        unit="img",
        disable=count < PROGRESS_FROM or not sys.stderr.isatty(),
    ):
        if isinstance(pixels, Exception):
            skipped[row] = name
            reason = reason or f"{name}: {' '.join(str(pixels).split())[:150]}"
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
    items: Iterable[tuple[int, str, Reader]], request: Request
) -> Iterator[tuple[int, str, np.ndarray | Exception]]:
    """Decodes in threads (Pillow releases the interpreter), a bounded number of images ahead."""

    def one(item: tuple[int, str, Reader]) -> tuple[int, str, np.ndarray | Exception]:
        row, name, read = item
        try:
            return row, name, decode(retry(read, name), request.size, request.span)
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
