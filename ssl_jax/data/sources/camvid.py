"""Source "camvid": street scenes from a car with the class of every pixel (Brostow et al. 2009)."""

import numpy as np

from ssl_jax.data import masked, places
from ssl_jax.data.arrays import requested
from ssl_jax.data.dataset import Card, Dataset, Request
from ssl_jax.runtime.errors import UserError

CARD = Card(
    channels=3,
    classes=0,
    count=367,
    test_count=233,
    mean=(0.4134, 0.4266, 0.4340),
    std=(0.3018, 0.3058, 0.3015),
    mirrors=True,
    domains=("day", "dusk"),
    mask_classes=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    whole_images=True,
    licence="research; the selection of SegNet CC BY-NC 4.0",
    origin="Brostow et al. 2009, the frames and eleven classes of SegNet (Badrinarayanan et al. 2017), 240x180 pixels",
)
SEQUENCES = ("0001TP", "0006R0", "0016E5", "Seq05VD")  # in the order of the field `clip`
ARCHIVE = "camvid_240x180.tar"
WANTED = f"{ARCHIVE} or its folder, or a folder of train/, val/ and test/ with NAME.jpg and its mask NAME.png"


def splits(where: str, path: str | None) -> tuple[str, ...]:
    """Returns which splits the archive or folder has."""
    names = masked.names(places.place("camvid", where, path, WANTED, ARCHIVE))
    return tuple(split for split in ("train", "test") if any(name.startswith(f"{split}/") for name in names))


def load(where: str, path: str | None, request: Request) -> Dataset:
    """Loads 367 training or 233 test frames; the validation frames are left alone.

    Args:
      where: camvid_240x180.tar, or a folder of the same layout.
      path: the same, where `where` is empty.
      request: which split and how large.

    Returns:
      images `[N, 180, 240, 3]` without labels; fields `mask` uint8 `[N, 180, 240]` (11 is void), `domain` int32 `[N]`
      (dusk is the sequence 0001TP) and `clip` int32 `[N]`, the sequence.

    Raises:
      UserError: nothing there, no such split, or a file is damaged.
    """
    place = places.place("camvid", where, path, WANTED, ARCHIVE)
    if request.split not in splits(where, path):
        raise UserError(f"camvid in {place} has no folder {request.split}/.")
    names, images, mask = masked.read(place, lambda name: name.startswith(f"{request.split}/"), request)
    clips = [name.partition("/")[2].partition("_")[0] for name in names]
    known = (*SEQUENCES, *sorted(set(clips) - set(SEQUENCES)))
    fields = {
        "mask": mask,
        "clip": np.array([known.index(clip) for clip in clips], np.int32),
        "domain": np.array([clip == "0001TP" for clip in clips], np.int32),
    }
    labels = np.full(len(images), -1, np.int32)
    return requested(Dataset("camvid", images, labels, (), fields, CARD), request)
