"""Source "davis": DAVIS 2016 (Perazzi et al. 2016), short videos with a mask of the moving object."""

import numpy as np

from ssl_jax.data import masked, places
from ssl_jax.data.arrays import requested
from ssl_jax.data.dataset import Card, Dataset, Request

CARD = Card(
    channels=3,
    classes=0,
    count=637,
    test_count=330,
    mean=(0.5118, 0.5220, 0.5048),
    std=(0.2211, 0.1992, 0.2272),
    mirrors=True,
    mask_classes=("background", "object"),
    new_classes=True,
    whole_images=True,
    licence="CC BY-NC 4.0",
    origin="Perazzi et al. 2016, https://davischallenge.org; 15 sequences of the validation set, 320x180 pixels",
)
ARCHIVE = "davis2016_val_180p.tar"
WANTED = f"{ARCHIVE} or its folder, or a folder of SEQUENCE/FRAME.jpg and its mask SEQUENCE/FRAME.png"


def splits(where: str, path: str | None) -> tuple[str, ...]:
    """Both splits, where there are at least three sequences."""
    return ("train", "test") if len(_sequences(places.place("davis", where, path, WANTED, ARCHIVE))) > 2 else ("train",)


def load(where: str, path: str | None, request: Request) -> Dataset:
    """Loads the frames of all sequences in order; every third sequence, by name, is test data.

    Args:
      where: davis2016_val_180p.tar, or a folder of the same layout.
      path: the same, where `where` is empty.
      request: which split and how large.

    Returns:
      images `[N, 180, 320, 3]` without labels; fields `mask` uint8 `[N, 180, 320]` (1 is the object) and `clip` int32
      `[N]`, the number of the sequence among all by name.

    Raises:
      UserError: nothing there, or a file is damaged.
    """
    place = places.place("davis", where, path, WANTED, ARCHIVE)
    sequences = _sequences(place)
    test = set(sequences[2::3])
    names, images, mask = masked.read(
        place, lambda name: (_sequence(name) in test) == (request.split == "test"), request
    )
    clip = np.array([sequences.index(_sequence(name)) for name in names], np.int32)
    labels = np.full(len(images), -1, np.int32)
    return requested(Dataset("davis", images, labels, (), {"mask": mask, "clip": clip}, CARD), request)


def _sequence(name: str) -> str:
    return name.rpartition("/")[0]


def _sequences(place: str) -> list[str]:
    return sorted({_sequence(name) for name in masked.names(place)})
