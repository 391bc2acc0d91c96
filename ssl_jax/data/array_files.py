"""Files of arrays: .npy and .npz without pickle, and the channels of TIFF through tifffile."""

import io
import math
from typing import Any
import zipfile

import numpy as np

from ssl_jax.data.reading import Reading, check_size
from ssl_jax.runtime.errors import UserError

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NPY, NPZ = b"\x93NUMPY", b"PK\x03\x04"


def stored(data: bytes, reading: Reading) -> np.ndarray:
    """Reads the array of a .npy file, or the only one (or that called 'image') of a .npz file; nothing is unpickled.

    Raises:
      ValueError: it holds no such array.
    """
    if data.startswith(NPY):
        return _array(data)
    with zipfile.ZipFile(io.BytesIO(data)) as members:
        if sum(member.file_size for member in members.infolist()) > 64 * reading.max_pixels:
            raise ValueError("what it unpacks to is more than data.max_pixels allows")
        names = [name.removesuffix(".npy") for name in members.namelist()]
        if len(names) != 1 and "image" not in names:
            raise ValueError(f"it holds several arrays ({', '.join(names[:3])}) and none called 'image'")
        return _array(members.read("image.npy" if "image" in names else members.namelist()[0]))


def _array(data: bytes) -> np.ndarray:
    """The array of a .npy file, whose header may promise more than it holds."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = header(file)
    if not kind.hasobject and math.prod(shape) * kind.itemsize > len(data):
        raise ValueError(f"it says {kind} {list(shape)}, which is more than it holds")
    return np.load(io.BytesIO(data), allow_pickle=False)


def tiff_file(data: bytes) -> Any:
    """Opens a TIFF.

    Raises:
      UserError: tifffile is missing.
    """
    try:
        import tifffile
    except ImportError as error:
        raise UserError(
            "The channels of TIFF files are read by the package tifffile: pip install ssl_jax[tiff], or store the "
            "images as .npy."
        ) from error
    return tifffile.TiffFile(io.BytesIO(data))


def tiff(data: bytes, reading: Reading, page: int) -> np.ndarray:
    """A page [H, W] or [H, W, C] of a TIFF, or all pages as channels; errors as of `stored` and `tiff_file`."""
    with tiff_file(data) as file:
        if reading.stacked and len(file.pages) > 1:
            return _stack(file.pages, reading)
        found = file.pages[page]
        check_size(found.imagewidth, found.imagelength, reading)
        values = found.asarray()
        return np.moveaxis(values, 0, -1) if found.axes == "SYX" else values


def _stack(pages: Any, reading: Reading) -> np.ndarray:
    """Pages [H, W] as channels [H, W, C], up to the last one that is meant."""
    if reading.channels and max(reading.channels) >= len(pages):
        raise ValueError(f"it has {len(pages)} pages, and data.channels has number {max(reading.channels)}")
    meant = [pages[number] for number in range(max(reading.channels or (0,)) + 1)]
    check_size(meant[0].imagewidth, meant[0].imagelength * len(meant), reading)
    shapes = {page.shape for page in meant}
    if len(shapes) > 1 or len(meant[0].shape) != 2:
        raise ValueError(f"its pages have {sorted(shapes)} where one size [H, W] is due (data.pages=channels)")
    return np.stack([page.asarray() for page in meant], -1)
