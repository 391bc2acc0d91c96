"""Source "davis_tracks": the moving objects of DAVIS 2016, cut out of their frames: tracks without a tracker."""

import numpy as np
from PIL import Image

from ssl_jax.data.arrays import requested
from ssl_jax.data.dataset import Card, Dataset, Request
from ssl_jax.data.sources import davis

SIDE = 64  # of a patch, pixels
ROOM = 1.3  # side of the square that is cut out, compared with the longer side of the object's box

CARD = Card(
    side=SIDE,
    channels=3,
    classes=0,
    count=637,
    test_count=330,
    mean=(0.5354, 0.5411, 0.5286),
    std=(0.2124, 0.1924, 0.2170),
    mirrors=True,
    new_classes=True,
    licence=davis.CARD.licence,
    origin=davis.CARD.origin,
)


def splits(where: str, path: str | None) -> tuple[str, ...]:
    """As of davis."""
    return davis.splits(where, path)


def load(where: str, path: str | None, request: Request) -> Dataset:
    """Cuts a square around the object out of each frame, as its mask has it.

    Args:
      where: as of davis.
      path: as of davis.
      request: which split.

    Returns:
      images `[N, 64, 64, 3]` without labels, and the field `clip` int32 `[N]`, the sequence. Frames without an object
      are left out.

    Raises:
      UserError: as davis.
    """
    frames = davis.load(where, path, Request(request.split))
    objects = np.asarray(frames.fields["mask"]) == 1
    seen = np.flatnonzero(objects.any((1, 2)))
    patches = np.stack([_patch(frames.images[i], objects[i]) for i in seen])
    fields = {"clip": np.asarray(frames.fields["clip"])[seen]}
    return requested(Dataset("davis_tracks", patches, frames.labels[seen], (), fields, CARD), request)


def _patch(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The square around the object, as far as the frame has one, at `SIDE` pixels."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    height, width = mask.shape
    side = min(ROOM * max(np.ptp(rows) + 1, np.ptp(columns) + 1), height, width)
    top, left = (
        float(np.clip((places[0] + places[-1] + 1 - side) / 2, 0, whole - side))
        for places, whole in ((rows, height), (columns, width))
    )
    box = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box))
