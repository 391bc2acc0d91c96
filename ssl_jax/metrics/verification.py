"""Verification: are two images of one class? Pairs in ten folds, as Labeled Faces in the Wild (LFW) has them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score, roc_curve

from ssl_jax.runtime.errors import UserError

FOLDS = 10
PAIRS = 300  # of one class, and as many of two, in a fold (LFW)
MAX_IMAGES = 1000  # of a fold from which pairs are drawn: half a million pairs
# Squared distances of unit vectors are from 0 to 4; the grids of davidsandberg/facenet, lfw.py.
THRESHOLDS, FINE = np.arange(0, 4, 0.01), np.arange(0, 4, 0.001)


class Pairs(NamedTuple):
    """Pairs of images."""

    rows: np.ndarray  # [n, 2]
    same: np.ndarray  # bool [n], whether both are of one class
    folds: np.ndarray  # [n], 0 to 9


class Verification(NamedTuple):
    """What `verify` found, by fold [10] but for the last."""

    accuracy: np.ndarray
    threshold: np.ndarray
    val: np.ndarray  # share of the pairs of one class that are accepted ...
    far: np.ndarray  # ... and share of those of two classes, at the threshold for the wanted one
    auc: float  # area under the ROC of all pairs


def draw_pairs(labels: ArrayLike, *, pairs: int = PAIRS, seed: int = 0) -> Pairs:
    """Draws pairs of which no class is in two folds.

    Args:
      labels: [N] integers, -1 where unknown.
      pairs: of one class in a fold, and as many of two; fewer where a fold has no more.
      seed: of the draw.

    Raises:
      UserError: there are fewer than two classes a fold, or some fold has no pair of one class.
    """
    labels = np.asarray(labels)
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.unique(labels[labels >= 0]))
    if len(classes) < 2 * FOLDS:
        raise UserError(
            f"Verification needs two classes in each of {FOLDS} folds, and there are {len(classes)} classes of test "
            "images: use data of more classes."
        )
    found = []
    for part in np.array_split(classes, FOLDS):
        rows = rng.permutation(np.flatnonzero(np.isin(labels, part)))[:MAX_IMAGES]
        one, other = np.triu_indices(len(rows), 1)
        same = labels[rows[one]] == labels[rows[other]]
        found.append([rng.permutation(np.stack([rows[one[kind]], rows[other[kind]]], 1)) for kind in (same, ~same)])
    count = min(pairs, *(len(kind) for fold in found for kind in fold))
    if not count:
        raise UserError(
            "Verification needs a class of two test images in each of its folds: use data with more of each class."
        )
    drawn = np.concatenate([kind[:count] for fold in found for kind in fold])
    return Pairs(drawn, np.tile(np.repeat([True, False], count), FOLDS), np.repeat(np.arange(FOLDS), 2 * count))


def accepted(distance: ArrayLike, same: ArrayLike, rates: Sequence[float]) -> np.ndarray:
    """Points of the ROC: the share of the pairs of one class that are accepted at each false accept rate.

    Args:
      distance: of the pairs [n].
      same: bool [n].
      rates: false accept rates; the threshold is the largest at which no larger share of the pairs of two classes is
        accepted.
    """
    distance, same = np.asarray(distance), np.asarray(same, bool)
    false, true, _ = roc_curve(same, -distance, drop_intermediate=False)
    return np.array([true[np.searchsorted(false, rate, side="right") - 1] for rate in rates])


def verify(distance: ArrayLike, same: ArrayLike, folds: ArrayLike, *, far: float = 1e-3) -> Verification:
    """Accuracy in each fold at the threshold that is best on all others.

    A pair is called one class if its distance is below the threshold, the first of those of the highest accuracy. For
    the validation rate (VAL) at a false accept rate (FAR), the threshold is interpolated on the other folds, and 0 if
    none of theirs reaches that rate.

    Args:
      distance: squared Euclidean distance [n] of embeddings of unit length.
      same: bool [n].
      folds: [n] number of each pair's fold.
      far: wanted share of the pairs of two classes that are accepted.

    Raises:
      UserError: shapes do not fit, or some fold has pairs of one kind alone.
    """
    distance, same, folds = np.asarray(distance), np.asarray(same, bool), np.asarray(folds)
    if distance.ndim != 1 or not distance.shape == same.shape == folds.shape or not np.isfinite(distance).all():
        raise UserError(
            f"Verification needs finite distances, kinds and folds [n], not {distance.shape}, {same.shape} and "
            f"{folds.shape}."
        )
    numbers = np.unique(folds)
    if len(numbers) < 2 or any(len(np.unique(same[folds == number])) < 2 for number in numbers):
        raise UserError("Verification needs two folds or more, and both kinds of pairs in each of them.")
    columns = []
    for number in numbers:
        own = folds == number
        right = (distance[~own, None] < THRESHOLDS) == same[~own, None]
        threshold = THRESHOLDS[np.argmax(right.mean(0))]
        accuracy = np.mean((distance[own] < threshold) == same[own])
        accepted = (distance[~own & ~same, None] < FINE).mean(0)
        strict = np.interp(far, accepted, FINE) if accepted.max() >= far else 0.0
        rates = [np.mean(distance[own & kind] < strict) for kind in (same, ~same)]
        columns.append([accuracy, threshold, *rates])
    accuracies, thresholds, vals, fars = np.array(columns).T
    return Verification(accuracies, thresholds, vals, fars, float(roc_auc_score(same, -distance)))
