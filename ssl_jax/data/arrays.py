"""Data sets that come as arrays: the files they are in, and what a request makes of them."""

import dataclasses
import gzip
import pathlib
import zipfile
import zlib

import numpy as np
from PIL import Image

from ssl_jax.data.dataset import Dataset, Request, check_memory
from ssl_jax.data.decode import fit, stacked
from ssl_jax.data.labels import first_per_class
from ssl_jax.data.pixels import as_planes, chosen
from ssl_jax.runtime.errors import UserError


def requested(dataset: Dataset, request: Request) -> Dataset:
    """Applies `per_class`, `channels` and `size` of a request to a data set in memory.

    A field that has a value for every pixel is resized with the images; each new value is one that was there.

    Args:
      dataset: all of the split.
      request: what is wanted of it.

    Raises:
      DoesNotFit: the images would become larger than `max_gib`.
      UserError: `per_class` of images without classes, or a channel that they do not have.
    """
    if request.channels is not None:
        try:
            images = np.ascontiguousarray(chosen(dataset.images, request.channels))
        except ValueError as error:
            raise UserError(f"The images of {dataset.name} cannot be taken so: {error}.") from error
        dataset = dataclasses.replace(dataset, images=images)
    if request.per_class is not None:
        dataset = dataset[first_per_class(dataset.labels, request.per_class, dataset.name)]
    side, shape = request.size, dataset.images.shape
    if side is None or shape[1:3] == (side, side):
        return dataset
    check_memory((shape[0], side, side, shape[3]), request.max_gib, dataset.name)
    fields = dict(dataset.fields)
    for name, values in fields.items():
        if isinstance(values, np.ndarray) and values.shape[1:3] == shape[1:3]:
            fields[name] = _nearest(values, side)
    return dataclasses.replace(dataset, images=_resized(dataset.images, side), fields=fields)


def _resized(images: np.ndarray, side: int) -> np.ndarray:
    found = np.zeros((len(images), side, side, images.shape[3]), np.uint8)
    for row, image in enumerate(images):
        found[row] = stacked([np.asarray(fit(plane, side)) for plane in as_planes(image)])
    return found


def _nearest(values: np.ndarray, side: int) -> np.ndarray:
    """The pixels of a field [N, H, W, ...] that lie nearest to those of the resized images."""
    height, width = values.shape[1:3]
    picked = [np.asarray(fit(_numbers(height, width, axis), side, Image.Resampling.NEAREST)) for axis in (0, 1)]
    return values[:, picked[0], picked[1]]


def _numbers(height: int, width: int, axis: int) -> Image.Image:
    """An image whose pixels are their own row or column."""
    return Image.fromarray(np.indices((height, width), np.int32)[axis])


def read_idx(file: pathlib.Path, dimensions: int) -> np.ndarray:
    """Reads a gzipped IDX file of bytes.

    Two zero bytes, the type (8: uint8), the number of dimensions, each dimension as a big-endian int32, then
    the values, the last dimension fastest.

    Args:
      file: the file.
      dimensions: how many it must have.

    Returns:
      uint8 array of that many dimensions.

    Raises:
      UserError: it is not such a file, or is truncated.
    """
    try:
        data = gzip.decompress(file.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file} is damaged or incomplete ({error}): fetch it again.") from error
    header = 4 + 4 * dimensions
    if len(data) < header or data[:4] != bytes([0, 0, 8, dimensions]):
        raise UserError(f"{file} is not an IDX file of {dimensions}-dimensional bytes: fetch it again.")
    shape = np.frombuffer(data[4:header], ">i4").tolist()
    if len(data) - header != np.prod(shape):
        raise UserError(f"{file} holds {len(data) - header} bytes where {shape} are due: fetch it again.")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def read_npz(file: pathlib.Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Reads some arrays of a .npz file, unpickling nothing.

    Args:
      file: the file.
      keys: names of the arrays.

    Raises:
      UserError: it is damaged, or lacks one of them.
    """
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            if missing := [key for key in keys if key not in stored]:
                raise UserError(f"{file} has no array '{missing[0]}', only {', '.join(stored)}.")
            return {key: stored[key] for key in keys}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        raise UserError(f"{file} is no readable .npz file ({error}): fetch it again.") from error


def read_digits(file: pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads grey images of the digits 0 to 9 from a .npz file of `x_train`, `y_train`, `x_test` and `y_test`.

    Args:
      file: as Keras keeps MNIST.
      split: "train" or "test".

    Returns:
      images uint8 `[N, H, W, 1]` and labels int32 `[N]`.

    Raises:
      UserError: the file is something else.
    """
    images, labels = read_npz(file, (f"x_{split}", f"y_{split}")).values()
    good = images.dtype == np.uint8 and images.ndim == 3 and labels.shape == images.shape[:1]
    if not good or not np.all((labels >= 0) & (labels < 10)):
        raise UserError(
            f"{file} does not hold {split} images uint8 [N, H, W] with labels of 0 to 9, but {images.dtype} "
            f"{list(images.shape)} with labels {list(labels.shape)}."
        )
    return images[..., None], labels.astype(np.int32)
