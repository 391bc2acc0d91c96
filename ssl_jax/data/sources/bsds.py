"""Source "bsds": BSDS500 (Arbelaez et al. 2011), photographs with the boundaries that several people drew in them."""

import io

import numpy as np
from PIL import Image

from ssl_jax.data import masked, places
from ssl_jax.data.arrays import requested
from ssl_jax.data.dataset import Card, Dataset, Request
from ssl_jax.data.decode import decode_all, fit
from ssl_jax.runtime.errors import UserError

ARCHIVE = "bsds500_boundaries_half.tar"
WANTED = (
    f"{ARCHIVE} or its folder, or a folder of val/ and test/ with NAME.jpg and NAME.png, the share of the annotators "
    "that see a boundary times 255"
)
CARD = Card(
    side=160,
    channels=3,
    classes=0,
    count=100,
    test_count=200,
    mean=(0.4449, 0.4480, 0.3797),
    std=(0.2468, 0.2352, 0.2393),
    mirrors=True,
    whole_images=True,
    licence="non-commercial research and education",
    origin="Arbelaez et al. 2011, https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/bsds; half size",
)
_FOLDERS = {"train": "val", "test": "test"}  # the photographs for training have no boundaries in the archive


def splits(where: str, path: str | None) -> tuple[str, ...]:
    """Which of the two there are."""
    names = masked.names(places.place("bsds", where, path, WANTED, ARCHIVE))
    return tuple(split for split, folder in _FOLDERS.items() if any(name.startswith(f"{folder}/") for name in names))


def load(where: str, path: str | None, request: Request) -> Dataset:
    """Loads 100 photographs to train on, which are BSDS500's for validation, or 200 test photographs.

    Photographs lie or stand; of each the central square is taken.

    Args:
      where: bsds500_boundaries_half.tar, or a folder of the same layout.
      path: the same, where `where` is empty.
      request: which split and how large.

    Returns:
      images `[N, side, side, 3]` without labels, where `side` is the shorter side of the first photograph, and the
      field `boundary` float32 `[N, side, side]`, the share of the annotators that see a boundary.

    Raises:
      UserError: nothing there, no such split, or a file is damaged.
    """
    place = places.place("bsds", where, path, WANTED, ARCHIVE)
    folder = _FOLDERS.get(request.split, request.split)
    chosen = [name for name in masked.names(place) if name.startswith(f"{folder}/")]
    if not chosen:
        raise UserError(f"bsds in {place} has no folder {folder}/.")
    with places.opened(place) as files:
        entries = {entry.name: entry for entry in files.entries}
        (_, _, first), *_ = files.read([entries[f"{chosen[0]}.jpg"]])
        with Image.open(io.BytesIO(first())) as opened:
            side = min(opened.size)
        square = Request(request.split, size=side, max_gib=request.max_gib)
        photographs = files.read([entries[f"{name}.jpg"] for name in chosen])
        images, _, damaged = decode_all(photographs, len(chosen), square, place)
        if damaged:
            raise UserError(f"{damaged[0]} in {place} cannot be read: fetch it again.")
        shares = np.zeros(images.shape[:3], np.float32)
        for row, _, get in files.read([entries[f"{name}.png"] for name in chosen]):
            with Image.open(io.BytesIO(get())) as opened:
                shares[row] = np.asarray(fit(opened.convert("L"), side, Image.Resampling.NEAREST), np.float32) / 255
    labels = np.full(len(images), -1, np.int32)
    return requested(Dataset("bsds", images, labels, (), {"boundary": shares}, CARD), request)
