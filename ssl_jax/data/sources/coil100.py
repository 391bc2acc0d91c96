"""Source "coil100": COIL-100 (Nene et al. 1996), a hundred objects on a turntable."""

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
FILE = "coil100_10views.npz"


def splits(where: str, path: str | None) -> tuple[str, ...]:
    """Both splits are in the one file."""
    places.find("coil100", where, path, FILE)
    return ("train", "test")


def load(where: str, path: str | None, request: Request) -> Dataset:
    """Loads ten views of each object; there is no official split, and here every fifth view is test data.

    Args:
      where: coil100_10views.npz or its folder; the file has images `x` `[N, H, W]`, objects `y` and `pose_index`, in
        steps of 5 degrees.
      path: the same, where `where` is empty.
      request: which split and how large.

    Returns:
      images `[N, 64, 64, 1]`; the field `pose` is the azimuth in degrees, int32 `[N]`.

    Raises:
      UserError: the file is not there or is something else.
    """
    arrays = read_npz(places.find("coil100", where, path, FILE), ("x", "y", "pose_index"))
    images, labels = arrays["x"][..., None], arrays["y"].astype(np.int32)
    pose = 5 * arrays["pose_index"].astype(np.int32)
    rank = np.zeros(len(labels), int)  # of a view among those of its object
    for label in np.unique(labels):
        rank[labels == label] = np.arange(np.sum(labels == label))
    rows = np.flatnonzero((rank % 5 == 4) == (request.split == "test"))
    classes = tuple(f"object {number + 1}" for number in range(labels.max() + 1))
    return requested(Dataset("coil100", images, labels, classes, {"pose": pose}, CARD)[rows], request)
