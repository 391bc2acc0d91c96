"""Source "coil100": COIL-100 (Nene et al. 1996), a hundred objects on a turntable.

"coil100:unseen" has all views of the first fifty objects for training and those of the others for testing: the protocol
of metric learning, whose test classes are new.
"""

import dataclasses

import numpy as np

from ssl_jax.data import places
from ssl_jax.data.arrays import read_npz, requested
from ssl_jax.data.dataset import Card, Dataset, Request

CARD = Card(
    side=64,
    channels=1,
    classes=100,
    count=800,
    test_count=200,
    mean=(0.2707,),
    std=(0.2152,),
    mirrors=True,
    licence="non-commercial research",
    origin="Nene et al. 1996, Columbia University; ten views of each object, in grey and at half size",
)
UNSEEN = "unseen"
CARDS = {
    UNSEEN: dataclasses.replace(
        CARD,
        count=500,
        test_count=500,
        mean=(0.2665,),
        std=(0.2139,),
        new_classes=True,
        origin=f"{CARD.origin}; objects 1 to 50 for training, 51 to 100 for testing",
    )
}
FILE = "coil100_10views.npz"


def splits(where: str, path: str | None) -> tuple[str, ...]:
    """Both splits are in the one file."""
    places.find("coil100", _place(where), path, FILE)
    return ("train", "test")


def load(where: str, path: str | None, request: Request) -> Dataset:
    """Loads ten views of each object; there is no official split, and here every fifth view is test data.

    Args:
      where: coil100_10views.npz or its folder; the file has images `x` `[N, H, W]`, objects `y` and `pose_index`, in
        steps of 5 degrees. Or "unseen", for test images of objects that the training images lack.
      path: the same, where `where` is empty or "unseen".
      request: which split and how large.

    Returns:
      images `[N, 64, 64, 1]`; the field `pose` is the azimuth in degrees, int32 `[N]`.

    Raises:
      UserError: the file is not there or is something else.
    """
    arrays = read_npz(places.find("coil100", _place(where), path, FILE), ("x", "y", "pose_index"))
    images, labels = arrays["x"][..., None], arrays["y"].astype(np.int32)
    pose = 5 * arrays["pose_index"].astype(np.int32)
    rank = np.zeros(len(labels), int)  # of a view among those of its object
    for label in np.unique(labels):
        rank[labels == label] = np.arange(np.sum(labels == label))
    count = int(labels.max()) + 1
    held_out = labels >= count // 2 if where == UNSEEN else rank % 5 == 4
    rows = np.flatnonzero(held_out == (request.split == "test"))
    classes = tuple(f"object {number + 1}" for number in range(count))
    name, card = (f"coil100:{UNSEEN}", CARDS[UNSEEN]) if where == UNSEEN else ("coil100", CARD)
    return requested(Dataset(name, images, labels, classes, {"pose": pose}, card)[rows], request)


def _place(where: str) -> str:
    return "" if where == UNSEEN else where
