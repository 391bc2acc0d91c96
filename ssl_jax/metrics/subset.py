"""Fewer rows, where a measure would take too long on all; and rows to hold out."""

from collections.abc import Callable

import numpy as np


def evenly_spaced(rows: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` of the rows, evenly spaced (images usually come sorted by class)."""
    return rows[np.linspace(0, len(rows) - 1, min(limit, len(rows))).astype(int)]


def stratified(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A hold-out: a share of each class, drawn at random; at least one image of each, but never its only one.

    Args:
      labels: int [N]; -1 is a class of its own.
      share: of each class, above 0 and below 1.
      seed: of the draw.

    Returns:
      bool [N], whether a row is held out.
    """
    rng = np.random.default_rng(seed)
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        mask[rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    return mask


def of_each(labels: np.ndarray, count: Callable[[int], int], seed: int = 0) -> np.ndarray:
    """Rows of each class, drawn at random; where a class is to give more, it gives the same rows and others.

    Args:
      labels: int [N]; -1 is no class.
      count: how many rows to draw of a class with so many.
      seed: of the draw.

    Returns:
      rows int64 [n], in rising order.
    """
    # A generator whose stream NumPy keeps as it is.
    draw = np.random.RandomState(seed)
    chosen = [np.zeros(0, np.int64)]
    for label in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == label)
        chosen.append(draw.permutation(rows)[: count(len(rows))])
    return np.sort(np.concatenate(chosen))


def some_of_each(labels: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """As `of_each`: so many rows of each class, or all where it has fewer."""
    return of_each(labels, lambda size: min(count, size), seed)
