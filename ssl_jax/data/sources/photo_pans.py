"""Source "photo_pans": clips of a window that moves over the two colour photographs that scikit-learn ships."""

import numpy as np
from PIL import Image

from ssl_jax.data.arrays import requested
from ssl_jax.data.dataset import Card, Dataset, Request

CLIPS, FRAMES, SIDE = 40, 24, 32  # of each photograph; of each clip; pixels

CARD = Card(
    side=SIDE,
    channels=3,
    classes=2,
    count=2 * CLIPS * FRAMES,
    test_count=2 * CLIPS * FRAMES // 4,
    mean=(0.4418, 0.4339, 0.3776),
    std=(0.3609, 0.2815, 0.3060),
    mirrors=True,
    licence="CC BY 2.0",
    origin="china.jpg by danielbuechele and flower.jpg by Andy Li, as scikit-learn ships them",
)
BUNDLED = True


def splits(where: str, path: str | None) -> tuple[str, ...]:
    """Both splits are there."""
    del where, path
    return ("train", "test")


def load(where: str, path: str | None, request: Request) -> Dataset:
    """Cuts clips out of the photographs.

    For trying out methods of videos without a download. Each photograph is halved in size; in a clip a window of 32x32
    pixels moves over it in a straight line, 1.5 to 3 pixels a frame. Clips of the test split start elsewhere and move
    in other directions, but over the same photographs. The label is the photograph.

    Args:
      where: not used.
      path: not used.
      request: which split and how large.

    Returns:
      images `[N, 32, 32, 3]`, and the fields `clip` and `pose` float32 `[N, 12]`: the rows of the 3x4 matrix that takes
      points from the window (x right, y down) to the photograph, pixels.
    """
    from sklearn.datasets import load_sample_images

    del where, path
    test = request.split == "test"
    draw = np.random.RandomState(1 if test else 0)  # a generator whose stream NumPy keeps as it is
    images, labels, seen_from = [], [], []
    for label, photograph in enumerate(load_sample_images().images):
        height, width = photograph.shape[0] // 2, photograph.shape[1] // 2
        small = np.asarray(Image.fromarray(photograph).resize((width, height), Image.Resampling.BOX))
        room = np.array([height - SIDE, width - SIDE])
        for _ in range(CLIPS // 4 if test else CLIPS):
            angle, speed = draw.uniform(0, 2 * np.pi), draw.uniform(1.5, 3.0)
            path_of = np.outer(np.arange(FRAMES), [np.sin(angle), np.cos(angle)]) * speed
            low, high = -path_of.min(0), room - path_of.max(0)
            corners = np.round(path_of + draw.uniform(low, high)).astype(int)
            images += [small[top : top + SIDE, left : left + SIDE] for top, left in corners.tolist()]
            labels += [label] * FRAMES
            seen_from.append(corners)
    clip = np.repeat(np.arange(len(labels) // FRAMES), FRAMES).astype(np.int32)
    pose = np.tile(np.eye(3, 4, dtype=np.float32), (len(images), 1, 1))
    pose[:, :2, 3] = np.concatenate(seen_from)[:, ::-1]
    fields = {"clip": clip, "pose": pose.reshape(-1, 12)}
    stacked, names = np.stack(images), ("temple", "flower")
    found = Dataset("photo_pans", stacked, np.array(labels, np.int32), names, fields=fields, card=CARD)
    return requested(found, request)
