"""Few-shot classification in closed form: ridge regression to targets of 1 and -1 (big_vision's `fewshot_lsr.py`)."""

from collections.abc import Sequence

import numpy as np

PENALTY = 2.0**10  # of the squared weights
CONSTANT = 100.0  # of the column that is the bias


def features(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Features [n, D] standardised by the training ones and with a constant column, float64 [n, D + 1]."""
    mean, std = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64) + 1e-5
    return [np.concatenate([(x - mean) / std, np.full((len(x), 1), CONSTANT)], 1) for x in (train, *others)]


def weights(x: np.ndarray, labels: np.ndarray, classes: int, penalty: float = PENALTY) -> np.ndarray:
    """Ridge weights [D, classes] for targets of 1 for an image's class and -1 for the others.

    Args:
      x: [n, D], from `features`.
      labels: [n] integers in [0, classes).
      classes: number of classes.
      penalty: of the squared weights.

    Returns:
      weights [D, classes].
    """
    y = 2.0 * np.eye(classes)[labels] - 1
    # Fewer images than features: the same weights from a system of n equations.
    if len(x) < x.shape[1]:
        return x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(len(x)), y)
    return np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)


def shots(labels: np.ndarray, count: int, seed: Sequence[int]) -> np.ndarray:
    """Rows of `count` random images of each class, or all of a class that has fewer."""
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.flatnonzero(labels == c))[:count] for c in np.unique(labels[labels >= 0])]
    return np.concatenate(rows)


def top1(train: np.ndarray, train_y: np.ndarray, test: np.ndarray, test_y: np.ndarray, classes: int) -> float:
    """Accuracy on test features of the classifier of a few training features."""
    x, queries = features(train, test)
    return float(((queries @ weights(x, train_y, classes)).argmax(1) == test_y).mean())
