"""Source "digits": the handwritten digits of 8x8 pixels that scikit-learn ships; "digits:inverted": black on white."""

import numpy as np

from ssl_jax.data.arrays import requested
from ssl_jax.data.dataset import Card, Dataset, Request
from ssl_jax.runtime.errors import UserError

CARD = Card(
    side=8,
    channels=1,
    classes=10,
    count=1352,
    test_count=445,
    mean=(0.3049,),
    std=(0.3756,),
    mirrors=False,
    licence="CC BY 4.0",
    origin="Alpaydin and Kaynak 1998 (UCI), as scikit-learn ships their test part",
)
BUNDLED = True


def splits(where: str, path: str | None) -> tuple[str, ...]:
    """Both splits are there."""
    del where, path
    return ("train", "test")


def load(where: str, path: str | None, request: Request) -> Dataset:
    """Loads 1,797 digits.

    They have no official split: here every fourth image of a class, in scikit-learn's order, is test data
    (1,352 and 445 images). The same people wrote both parts, so test accuracy is flattered.

    Args:
      where: "inverted" for digits in black on white, which are another domain; or nothing.
      path: not used.
      request: which split and how large.

    Returns:
      images `[N, 8, 8, 1]`, whose 17 grey levels are spread over 0 to 255.

    Raises:
      UserError: `where` is something else.
    """
    from sklearn.datasets import load_digits

    del path
    if where not in ("", "inverted"):
        raise UserError(f"There is no source 'digits:{where}': use 'digits' or 'digits:inverted'.")
    pixels, target = load_digits(return_X_y=True)
    images = np.round(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    images = 255 - images if where else images
    labels = target.astype(np.int32)
    position = np.zeros(len(labels), int)  # of an image within its class
    for label in range(10):
        position[labels == label] = np.arange(np.sum(labels == label))
    rows = np.flatnonzero((position % 4 == 3) == (request.split == "test"))
    return requested(
        Dataset(f"digits:{where}" if where else "digits", images[rows], labels[rows], tuple("0123456789"), card=CARD),
        request,
    )
