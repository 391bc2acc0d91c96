"""Source "photo_tiles": tiles of the two colour photographs that scikit-learn ships, a temple and a flower."""

import numpy as np
from PIL import Image

from ssl_jax.data.arrays import requested
from ssl_jax.data.dataset import Card, Dataset, Request

CARD = Card(
    side=32,
    channels=3,
    classes=2,
    count=5244,
    test_count=828,
    mean=(0.4393, 0.4367, 0.3842),
    std=(0.3590, 0.2838, 0.3090),
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
    """Cuts the photographs into tiles of 32x32 pixels.

    For trying out what digits are too small and too grey for, without a download. Each photograph is halved in size;
    tiles lie 4 pixels apart; test tiles come from the right fifth of a photograph and training tiles from the rest
    (5,244 and 828). The label is the photograph.

    Args:
      where: not used.
      path: not used.
      request: which split and how large.

    Returns:
      images `[N, 32, 32, 3]`.
    """
    from sklearn.datasets import load_sample_images

    del where, path
    side, stride = 32, 4
    images, labels = [], []
    for label, photograph in enumerate(load_sample_images().images):
        height, width = photograph.shape[0] // 2, photograph.shape[1] // 2
        small = np.asarray(Image.fromarray(photograph).resize((width, height), Image.Resampling.BOX))
        border = width * 4 // 5
        part = small[:, border:] if request.split == "test" else small[:, :border]
        windows = np.lib.stride_tricks.sliding_window_view(part, (side, side), axis=(0, 1))[::stride, ::stride]
        tiles = windows.transpose(0, 1, 3, 4, 2).reshape(-1, side, side, 3)
        images.append(tiles)
        labels.append(np.full(len(tiles), label, np.int32))
    found = Dataset("photo_tiles", np.concatenate(images), np.concatenate(labels), ("temple", "flower"), card=CARD)
    return requested(found, request)
