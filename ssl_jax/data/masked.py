"""Photographs with a mask each: `NAME.jpg` and `NAME.png`, whose pixels are numbers of things."""

from collections.abc import Callable
import io

import numpy as np
from PIL import Image

from ssl_jax.data import places
from ssl_jax.data.dataset import Request
from ssl_jax.data.decode import decode_all
from ssl_jax.runtime.errors import UserError


def names(place: str) -> list[str]:
    """Names without suffix of the photographs in a folder or archive, sorted.

    Raises:
      UserError: there is no such place, no photograph, or one without a mask.
    """
    with places.opened(place) as files:
        found = {entry.name for entry in files.entries}
    photographs = sorted(name.removesuffix(".jpg") for name in found if name.endswith(".jpg"))
    if not photographs:
        raise UserError(f"There are no photographs .jpg in {place}.")
    if bare := next((name for name in photographs if f"{name}.png" not in found), None):
        raise UserError(f"{bare}.jpg in {place} has no mask: there is no {bare}.png.")
    return photographs


def read(place: str, wanted: Callable[[str], bool], request: Request) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Reads photographs and their masks in the order of their names.

    Args:
      place: a folder or archive.
      wanted: whether a name without suffix is meant.
      request: the memory limit; its size is left to `arrays.requested`.

    Returns:
      names, images uint8 `[N, H, W, C]` and masks uint8 `[N, H, W]`.

    Raises:
      UserError: a file is missing or damaged, or a mask has another size than its photograph.
    """
    chosen = [name for name in names(place) if wanted(name)]
    limit = Request(request.split, max_gib=request.max_gib)
    with places.opened(place) as files:
        entries = {entry.name: entry for entry in files.entries}
        photographs = files.read([entries[f"{name}.jpg"] for name in chosen])
        images, _, damaged = decode_all(photographs, len(chosen), limit, place)
        masks = np.zeros(images.shape[:3], np.uint8)
        for row, name, get in files.read([entries[f"{name}.png"] for name in chosen]) if not damaged else ():
            with Image.open(io.BytesIO(get())) as opened:
                mask = np.asarray(opened)  # numbers, also of a palette's colours
            if mask.shape != masks.shape[1:]:
                raise UserError(f"{name} in {place} is {mask.shape}, but its photograph {masks.shape[1:]}.")
            masks[row] = mask
    if damaged:
        raise UserError(f"{damaged[0]} in {place} cannot be read: fetch it again.")
    return chosen, images, masks
