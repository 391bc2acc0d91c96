"""Label efficiency: test accuracy against the share of the training images that is labelled."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ssl_jax.metrics.few_label import MAX_IMAGES, fit, flat, scaling
from ssl_jax.runtime.errors import UserError

PERCENTS = (1, 5, 10, 50, 100)
DRAWS = 3  # of up to 10 %; a larger share hardly depends on the draw, and its fits are slow


def subset(labels: np.ndarray, percent: float, seed: int | Sequence[int]) -> np.ndarray:
    """Rows of a random share of each class, at least one image; a larger share of one seed holds the smaller.

    Args:
      labels: [N] integers; rows with -1 are never taken.
      percent: of the labelled images of each class.
      seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for c in np.unique(labels[labels >= 0]):
        rows = rng.permutation(np.flatnonzero(labels == c))
        parts.append(rows[: max(1, round(len(rows) * percent / 100))])
    return np.concatenate(parts)


def sizes(labels: ArrayLike, percents: Sequence[float] = PERCENTS) -> dict[float, int]:
    """Number of images of each share that the curve has: those of at most `MAX_IMAGES`.

    Args:
      labels: [N] integers, -1 where unknown.
      percents: of the labelled images of each class.
    """
    counts = {percent: len(subset(np.asarray(labels), percent, 0)) for percent in percents}
    return {percent: count for percent, count in counts.items() if count <= MAX_IMAGES}


def draws(percent: float) -> int:
    """How many draws of the labelled images a share has."""
    return DRAWS if percent <= 10 else 1


def label_curve(
    train_x: ArrayLike,
    train_y: ArrayLike,
    test_x: ArrayLike,
    test_y: ArrayLike,
    *,
    percents: Sequence[float] = PERCENTS,
    seed: int = 0,
) -> dict[float, tuple[float, float | None]]:
    """Accuracy of logistic regression fitted to a share of the labels; classifier and scaling are `few_label`'s.

    A share of more than `MAX_IMAGES` images has no point on the curve: fewer would be another share.

    Args:
      train_x: [N, ...] features of all training images.
      train_y: [N] integer labels, -1 where unknown.
      test_x: [M, ...] features of the test images.
      test_y: [M] integer labels; rows with -1 are dropped.
      percents: shares of each class that are labelled, with at least one image of each.
      seed: of the draws; the same seed draws the same images for every representation.

    Returns:
      Percent to the mean accuracy and its sample standard deviation over the draws (`DRAWS` up to 10 %; one above,
      which has no deviation: None), for each share that `sizes` has.

    Raises:
      UserError: shapes do not fit, a feature is not finite, or there are fewer than two labelled classes or no
        labelled test image.
    """
    train_y, test_y = np.asarray(train_y), np.asarray(test_y)
    if len(np.unique(train_y[train_y >= 0])) < 2 or not (test_y >= 0).any():
        raise UserError("The label curve needs training labels of two classes and labelled test images.")
    train_x, test_x = flat(train_x), flat(test_x)
    scaled = scaling("features", train_x, test_x, len(train_y), len(test_y))
    test_x, test_y = scaled(test_x[test_y >= 0]), test_y[test_y >= 0]
    curve: dict[float, tuple[float, float | None]] = {}
    for percent in sizes(train_y, percents):
        accuracies = []
        for draw in range(draws(percent)):
            rows = np.random.default_rng(seed).permutation(subset(train_y, percent, [seed, draw]))
            accuracies.append(fit(scaled(train_x[rows]), train_y[rows], test_x, test_y)[0])
        std = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None
        curve[percent] = float(np.mean(accuracies)), std
    return curve
